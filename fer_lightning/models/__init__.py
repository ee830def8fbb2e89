"""From pixels to logits: networks, timm backbones, test-time views, ensembles, what a network costs."""
