"""What nnU-Net has planned and preprocessed: an optional room, of which reading knows `nnunet_volume` alone."""

from .volume import nnunet_volume

__all__ = ["nnunet_volume"]
