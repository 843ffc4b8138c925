"""Read by every Python of nnU-Net's environment: timm and torchvision as empty names.

Its transformers alone need them, and PyPI's torchvision fits no CPU build of torch.
"""

import importlib.abc
import importlib.machinery
import sys
import types


class _Empty(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        known = name.partition(".")[0] in ("timm", "torchvision")
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if known else None

    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__getattr__ = _anything
        return module

    def exec_module(self, module):
        pass


def _anything(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})


sys.meta_path.insert(0, _Empty())
