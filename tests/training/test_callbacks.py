from pathlib import Path
from types import SimpleNamespace

import torch

from fer_lightning.training.callbacks import checkpoints


def test_a_run_in_a_moved_folder_keeps_its_best_score(tmp_path: Path) -> None:
    before, _ = checkpoints(tmp_path / "old", "val/accuracy", "max")
    file = str(tmp_path / "old" / "best.ckpt")
    before.best_k_models = {file: torch.tensor(0.7)}
    before.best_model_path = before.kth_best_model_path = file
    before.best_model_score = before.kth_value = torch.tensor(0.7)
    after, _ = checkpoints(tmp_path / "new", "val/accuracy", "max")
    after.load_state_dict(before.state_dict())
    assert not after.best_model_path  # the file was not moved
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "best.ckpt").touch()
    after.load_state_dict(before.state_dict())
    assert after.state_key == before.state_key
    assert after.best_model_path == str(tmp_path / "new" / "best.ckpt")
    assert after.best_model_score == 0.7
    trainer = SimpleNamespace(strategy=SimpleNamespace(reduce_boolean_decision=lambda decision: decision))
    assert not after.check_monitor_top_k(trainer, torch.tensor(0.1))
    assert after.check_monitor_top_k(trainer, torch.tensor(0.8))
