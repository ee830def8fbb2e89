import torch

from fer_lightning.models.cost import cost
from fer_lightning.models.network import build_network

CNN = {
    "_target_": "fer_lightning.models.custom_cnn.CustomCNN",
    "image_size": 24, "channels": 1, "mean": 0.5, "std": 0.5, "width": 4,
}  # fmt: skip


def test_parameters_are_counted_and_latency_does_not_change_the_network() -> None:
    network = build_network(CNN, num_classes=7).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    threads = torch.get_num_threads()
    assert cost("parameters", network) == sum(p.numel() for p in network.parameters())
    assert 0 < cost("latency", network) < 1000
    assert network.training
    assert torch.get_num_threads() == threads
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
