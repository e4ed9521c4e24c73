"""Backbones and their parts; importing this registers them."""

from mmmeta.models.families import FAMILIES, PoolFormer
from mmmeta.models.metaformer import MetaFormer

__all__ = ['FAMILIES', 'MetaFormer', 'PoolFormer']
