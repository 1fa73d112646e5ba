"""The MIP network: ViT, modality prompts, instance prompt generator, JPM head, necks."""
