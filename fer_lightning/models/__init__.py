"""Networks from pixels to logits: architectures, timm backbones, test-time views, ensembles, cost, pruning."""
