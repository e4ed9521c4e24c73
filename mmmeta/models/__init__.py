"""Backbones and their parts; importing this package registers them."""

from mmmeta.models.families import (
    FAMILIES,
    CAFormer,
    ConvFormer,
    IdentityFormer,
    PoolFormer,
    PoolFormerV2,
    RandFormer,
    UniFormer,
)
from mmmeta.models.metaformer import MetaFormer
from mmmeta.models.neck import MetaFormerNeck

__all__ = [
    'FAMILIES',
    'CAFormer',
    'ConvFormer',
    'IdentityFormer',
    'MetaFormer',
    'MetaFormerNeck',
    'PoolFormer',
    'PoolFormerV2',
    'RandFormer',
    'UniFormer',
]
