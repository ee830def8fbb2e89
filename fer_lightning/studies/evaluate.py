"""`python -m fer_lightning evaluate checkpoint=...`: measures a trained net again."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from fer_lightning.config import check, plain, register_resolvers
from fer_lightning.reporting import records, tables
from fer_lightning.reporting.report import write_report
from fer_lightning.run import build_trainer, evaluate_part, one_clear_sentence, prepare_data, quiet
from fer_lightning.training.metrics import Scores
from fer_lightning.training.module import FERModule, load_module

HELP = """usage: python -m fer_lightning evaluate checkpoint=RUN/checkpoints/best.ckpt [key=value ...]

Measures a checkpoint on the data, protocol and views of its own run, or as you change them:

  eval=tta                                   plain, flip, tta, ten_crop or rotations (conf/eval)
  eval.split=val                             PublicTest instead of PrivateTest: choose on it, not on the test part
  data=fer2013 data.path=fer2013.csv         the data set, where it has moved
  protocol=kaggle                            another split

The report goes beside the checkpoint's run, into evaluate_VIEWS_SPLIT/.
"""

CONF = Path(__file__).parents[2] / "conf"


def compose_for(module: FERModule, overrides: Sequence[str]) -> DictConfig:
    """The configuration that a checkpoint was trained with, composed anew with changes.

    Args:
        module: The trained module; its provenance holds what was typed when it was trained.
        overrides: What is typed now; it wins.
    """
    typed_now = {o.lstrip("+~").split("=")[0] for o in overrides}
    before = module.hparams["provenance"]["overrides"]
    kept = [o for o in before if o.lstrip("+~").split("=")[0] not in typed_now | {"resume"}]
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=[*kept, "paths.output_dir=null", *overrides])


def evaluate(checkpoint: Path, overrides: Sequence[str]) -> dict[str, Scores]:
    """Measures a checkpoint and writes the report beside its run.

    Args:
        checkpoint: A `best.ckpt` or `last.ckpt`.
        overrides: Hydra overrides on top of those of the run.

    Returns:
        Scores by part.
    """
    quiet()
    module = load_module(checkpoint)
    config = compose_for(module, overrides)
    check(config)
    pl.seed_everything(config.seed, workers=True, verbose=False)
    faces, split, datamodule = prepare_data(config)
    if list(faces.classes) != module.classes:
        raise ValueError(
            f"{checkpoint} knows the classes {', '.join(module.classes)}; {faces.name} has {', '.join(faces.classes)}"
        )
    console = Console()
    trained_on = module.hparams["provenance"]
    if faces.fingerprint != trained_on["data_fingerprint"]:
        console.print(f"[yellow]This net was trained on {trained_on['data']}, other data than {faces.name} here.[/]")
    evaluation = plain(config.eval)
    run = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    views = evaluation["views"]["_target_"].rsplit(".", 1)[-1]
    folder = run / f"evaluate_{views}_{evaluation['split']}"
    trainer = build_trainer(config, folder, module.network, logger=False)
    scores = evaluate_part(trainer, module, datamodule, evaluation, config.seed)
    assert module.test_predictions is not None
    write_report(folder, faces, module.test_predictions, scores)
    records.write_json(
        folder / "record.json",
        {
            "checkpoint": str(checkpoint),
            "command": "python -m fer_lightning evaluate " + " ".join([f"checkpoint={checkpoint}", *overrides]),
            "data": faces.name,
            "data_fingerprint": faces.fingerprint,
            "protocol": split.name,
            "evaluation": evaluation,
            "commit": records.commit(),
            "machine": records.machine(),
            "versions": records.versions(),
            **{part: records.recorded(s) for part, s in scores.items()},
        },
    )
    console.print(tables.test_table(scores, module.classes))
    console.print(f"report: {folder}", soft_wrap=True)
    return scores


def main(arguments: Sequence[str]) -> int:
    """The verb; returns its exit status."""
    if not arguments or "--help" in arguments or "-h" in arguments:
        print(HELP)
        return 0 if arguments else 2
    named = [a.split("=", 1)[1] for a in arguments if a.startswith("checkpoint=")]
    if len(named) != 1:
        print("fer evaluate: give one checkpoint=RUN/checkpoints/best.ckpt", file=sys.stderr)
        return 2
    try:
        with one_clear_sentence(), torch.inference_mode():
            evaluate(Path(named[0]), [a for a in arguments if not a.startswith("checkpoint=")])
    except (HydraException, OmegaConfBaseException) as error:
        print(f"fer evaluate: {error}", file=sys.stderr)
        return 2
    return 0
