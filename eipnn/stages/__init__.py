"""The three stages, each a LightningModule beside its LightningDataModule."""

from eipnn.stages.classify import ClassifierDataModule, ClassifierModule
from eipnn.stages.finetune import FinetuneDataModule, FinetuneModule
from eipnn.stages.pretrain import PretrainDataModule, PretrainModule

__all__ = [
    "ClassifierDataModule",
    "ClassifierModule",
    "FinetuneDataModule",
    "FinetuneModule",
    "PretrainDataModule",
    "PretrainModule",
]
