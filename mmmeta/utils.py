"""The interface that MMEngine expects of a library with configs and models."""


def register_all_modules(init_default_scope: bool = True) -> None:
    """Register mmmeta's modules; `mmengine.hub.get_model` calls this.

    Args:
        init_default_scope: Make mmmeta the default scope. Default: True.
    """
    from mmengine.registry import init_default_scope as set_default_scope

    import mmmeta.models  # noqa: F401

    if init_default_scope:
        set_default_scope('mmmeta')
