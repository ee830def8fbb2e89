"""From-scratch networks, timm backbones, test-time augmentation."""
