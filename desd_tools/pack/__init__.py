"""From a bundle of the repository to one that can be handed on."""
