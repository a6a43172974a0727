"""Images, arrays and texts divided into tasks, in batches ``{task: (x, y)}``, and synthetic teachers."""

from lit_aux.data.base import TaskDataModule
from lit_aux.data.cifar100 import CIFAR100DataModule
from lit_aux.data.classes import ClassesDataModule
from lit_aux.data.diabetes import DiabetesDataModule
from lit_aux.data.diagonal_teacher import DiagonalTeacherDataModule
from lit_aux.data.digits import DigitsDataModule
from lit_aux.data.fashion_mnist import FashionMNISTDataModule
from lit_aux.data.fashion_mtl import FashionMTLDataModule
from lit_aux.data.image_folder import ImageFolderDataModule
from lit_aux.data.loader import InMemoryLoader
from lit_aux.data.multi_task_loader import MultiTaskLoader
from lit_aux.data.own_arrays import ArraysDataModule
from lit_aux.data.own_teacher import OwnTeacherDataModule
from lit_aux.data.relu_teacher import ReLUTeacher, ReLUTeacherDataModule
from lit_aux.data.splits import SplitsDataModule
from lit_aux.data.tasks import assign_classes, draw_samples
from lit_aux.data.teacher_base import TeacherDataModule
from lit_aux.data.text import TextDataModule
from lit_aux.data.transforms import BatchTransform, RandomCropFlip
from lit_aux.data.wordnet import WordNetDataModule

__all__ = [
    "ArraysDataModule",
    "BatchTransform",
    "CIFAR100DataModule",
    "ClassesDataModule",
    "DiabetesDataModule",
    "DiagonalTeacherDataModule",
    "DigitsDataModule",
    "FashionMNISTDataModule",
    "FashionMTLDataModule",
    "ImageFolderDataModule",
    "InMemoryLoader",
    "MultiTaskLoader",
    "OwnTeacherDataModule",
    "RandomCropFlip",
    "ReLUTeacher",
    "ReLUTeacherDataModule",
    "SplitsDataModule",
    "TaskDataModule",
    "TeacherDataModule",
    "TextDataModule",
    "WordNetDataModule",
    "assign_classes",
    "draw_samples",
]
