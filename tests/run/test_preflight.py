"""Wrong settings are reported in one sentence, before any data are read."""

import sys
from pathlib import Path

import pytest
import torch
from helpers.runs import TINY
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException

import fer_lightning.models
from fer_lightning.cli.command_line import check_command_line
from fer_lightning.config import ROOT
from fer_lightning.run.preflight import dry_run
from fer_lightning.run.resolvers import register_resolvers
from fer_lightning.run.resume import StartPoint
from fer_lightning.run.train import train


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("optimizer.lr=-1", r"optimizer\.lr is -1; it must be a number above 0"),
        ("trainer.batch_size=0", r"trainer\.batch_size"),
        ("trainer.precision=bf16-true", r"trainer\.precision"),
        ("trainer.limit_val_batches=2.5", "limit_val_batches"),
        ("data.targets=ballots", r"data\.targets"),
        ("data.sampler=sorted", r"data\.sampler"),
        ("resume=nowhere.ckpt", r"nowhere\.ckpt"),
        ("optimizer.lr=.nan", r"optimizer\.lr is"),
        ("optimizer.weight_decay=-0.1", r"optimizer\.weight_decay is -0\.1; it must be 0 or more"),
        ("model.dropout=1.5", r"model\.dropout is 1\.5; it must be a number from 0 to below 1"),
        ("model.dropout=high", r"model\.dropout is 'high'"),
        ("trainer.batch_size=2.5", r"trainer\.batch_size is 2\.5; it must be a whole number"),
        ("trainer.on_nan=ignore", r"trainer\.on_nan is 'ignore'; it must be 'stop' or 'skip'"),
        ("seed=-1", "seed is -1"),
        ("objective=val/acuracy", r"objective is 'val/acuracy'; did you mean 'val/accuracy'\?"),
        ("objective=train/loss", "objective is 'train/loss'"),
        ("model.image_size=4", r"model\.image_size=4 is too small"),
        ("model.weights=nowhere.safetensors", "no such file"),
        ("optimizer.betas=[2,0.9]", r"optimizer\.betas is \[2, 0\.9\]; it must be"),
        ("scheduler.warmup_fraction=much", "scheduler"),
        ("loss.label_smoothing=1", r"loss\.label_smoothing is 1"),
        ("objective=val/loss", "objective=val/loss is better when smaller: add objective_mode=min"),
        ("objective_mode=min", "objective=val/accuracy is better when larger: add objective_mode=max"),
        (
            "scheduler=plateau scheduler.monitor=val/loss",
            r"scheduler\.monitor=val/loss is better when smaller: add scheduler\.mode=min",
        ),
        (
            "callbacks=early_stopping callbacks.early_stopping.monitor=train/loss",
            r"is better when smaller: add callbacks\.early_stopping\.mode=min",
        ),
        ("data.resident=gpu", r"data\.resident is 'gpu'; it must be 'auto' or true or false"),
        ("scheduler=onecycle scheduler.warmup_fraction=2", r"scheduler\.warmup_fraction is 2; it must be"),
        ("eval=tta eval.views.shift=2", r"eval\.views\.shift is 2; it must be a fraction of the side"),
        ("eval.average=probs", r"eval\.average is 'probs'; it must be 'probabilities' or 'logits'"),
        ("eval.bootstrap=0", r"eval\.bootstrap is 0; it must be a whole number above 0"),
        ("eval.split=val paths.results_dir=results experiment=sequential_cnn", "accepts only scores on test"),
        ("trainer.max_epochs=5 trainer.check_val_every_n_epoch=2", "that divides trainer.max_epochs=5"),
        ("loss=distillation", "loss=distillation needs a teacher: add callbacks=distillation"),
        ("model.width=0", r"model\.width is 0; it must be a whole number above 0"),
        ("model=compact model.widths=[8,0,8]", r"model\.widths is \[8, 0, 8\]; it must be a whole number above 0"),
        (
            "scheduler=plateau scheduler.patience=-1",
            r"patience is -1; it must be a whole number of 0 or more",
        ),
        ("model=emonext model.name=test_convnext model.image_size=9", "does not work with test_convnext"),
        ("trainer.devices=banana", r"trainer\.devices is 'banana'; it must be a number of devices"),
        (
            "scheduler=cosine scheduler.final_fraction=-1",
            r"scheduler\.final_fraction is -1; it must be a number from 0",
        ),
        ("scheduler=cosine scheduler.warmup_epochs=-1", r"scheduler\.warmup_epochs is -1; it must be 0 or more"),
        ("scheduler=step scheduler.factor=-1", r"scheduler\.factor is -1; it must be 0 or more"),
        ("scheduler=plateau scheduler.min_lr=abc", r"scheduler\.min_lr is 'abc'; it must be 0 or more"),
        ("callbacks=ema callbacks.ema.update_starting_at_step=abc", "must be a whole number of 0 or more"),
        ("trainer.batch_size=[32,64]", r"trainer\.batch_size is \[32, 64\]; it must be one value"),
        ("trainer.max_epochs=null", r"trainer\.max_epochs is null; it must be a whole number above 0"),
        ("eval=rotations eval.views.angles=two", r"eval\.views: "),
        ("trainer.gradient_clip_val=-1", r"trainer\.gradient_clip_val is -1; it must be 0 or more"),
        ("tracking=mlflow tracking.timeout=abc", r"tracking\.timeout is 'abc'; it must be 0 or more"),
        ("optimizer.betas=3", r"optimizer\.betas is 3; it must be a list of numbers"),
        (
            "model._target_=fer_lightning.models.custom_cnn.CustomCN",
            r"did you mean 'CustomCNN'\?",
        ),
        (
            "experiment=custom_cnn augmentation=none",
            r"augmentation\.policy\.\w+ is set by .* add augmentation\.policy=null",
        ),
        (
            "trainer.limit_train_batches=2.5",
            r"limit_train_batches is 2\.5; it must be above 0: a number of batches, or a",
        ),
        (
            "trainer=ddp trainer.devices=2 trainer.batch_size=63 trainer.accelerator=cpu",
            "divided evenly among 2 processes",
        ),
        (
            "callbacks=early_stopping callbacks.early_stopping.monitor=train/loss callbacks.early_stopping.mode=min "
            "trainer.max_epochs=2 trainer.check_val_every_n_epoch=2",
            r"monitor=train/loss is only checked in epochs with validation: set trainer\.check_val_every_n_epoch=1",
        ),
        ("eval=tta eval.views.shift=0", r"eval\.views\.shift is 0; it must be a fraction of the side"),
        ("resume=.", r"resume=\. is a folder: give checkpoints/last\.ckpt"),
        ("model.weights=.", r"model\.weights=\. is a folder; for a run, give checkpoints/best\.ckpt"),
        ("trainer=ddp trainer.on_nan=skip", "on_nan=skip needs a single process"),
        ("trainer=ddp finetune=gradual", "finetune=gradual unfreezes layers during training"),
        ("eval=rotations eval.views.angles=0", r"eval\.views\.angles is 0; it must be a whole number from 1 to 360"),
        ("eval=rotations eval.views.angles=361", r"eval\.views\.angles is 361; it must be a whole number"),
        ("eval.bootstrap=100001", r"eval\.bootstrap is 100001; it must be 100000 or less"),
        ("eval=ten_crop eval.views.size=40", r"eval\.views\.size is 40"),
        ("eval=tta eval.views.shift=abc", r"eval\.views: "),
        ("trainer.limit_test_batches=0", r"limit_test_batches is 0; it must be above 0"),
        ("trainer.limit_val_batches=0", r"limit_val_batches is 0; it must be above 0"),
        ("eval.bootstrap=null", r"eval\.bootstrap is null; it must be a whole number above 0"),
        (
            "callbacks=early_stopping callbacks.early_stopping.patience=null",
            r"callbacks\.early_stopping\.patience is null; it must be a whole number of 0 or more",
        ),
        ("scheduler=plateau scheduler.patience=null", r"scheduler\.patience is null; it must be a whole number"),
        ("scheduler=plateau scheduler.min_lr=null", r"scheduler\.min_lr is null; it must be 0 or more"),
        ("callbacks=ema callbacks.ema.update_starting_at_step=null", r"update_starting_at_step is null; it must be"),
        ("callbacks=ema callbacks.ema.decay=null", r"callbacks\.ema\.decay is null; it must be a number from 0"),
        ("augmentation=light data.workers=null", r"data\.workers is null; it must be a whole number of 0 or more"),
        ("finetune=gradual finetune.callback.keep_frozen=null", r"keep_frozen is null; it must be a whole number"),
        ("finetune=gradual finetune.callback.every_epochs=null", r"every_epochs is null; it must be a whole number"),
        ("model.hidden=null", r"model\.hidden is null; it must be a whole number of 0 or more"),
        ("trainer=ddp trainer.num_nodes=null", r"trainer\.num_nodes is null; it must be a whole number above 0"),
        ("objective=null", "objective is 'None'. It must be one of val"),
        ("trainer.limit_train_batches=null", r"limit_train_batches is None; it must be above 0"),
        (
            "debug=fast paths.results_dir=results experiment=sequential_cnn",
            r"accepts only scores on the whole test part; trainer\.limit_test_batches is 3",
        ),
        ("finetune=gradual finetune.callback.keep_frozen=9", r"keep_frozen is 9; the model has \d stages"),
        ("scheduler=step scheduler.every_epochs=0", r"scheduler\.every_epochs is 0; it must be a whole number above 0"),
        ("scheduler.initial_divisor=0", "optimizer or scheduler: "),
        ("optimizer.betas=[0.9]", "optimizer or scheduler: "),
        ("callbacks=ema callbacks.ema.decay=2", r"callbacks\.ema\.decay is 2; it must be"),
        ("callbacks=progressive_resizing callbacks.progressive_resizing.share=1", r"share is 1; it must be between 0"),
        ("callbacks=progressive_resizing callbacks.progressive_resizing.sides=[]", r"sides is \[\]; it must be a list"),
        ("callbacks=progressive_resizing", r"sides has 32; it must be smaller than model\.image_size=24"),
        (
            "model=sequential_cnn callbacks=progressive_resizing callbacks.progressive_resizing.sides=[16]",
            r"sides has 16, which \S+SequentialCNN with model\.image_size=24 cannot process: ",
        ),
        ("model.channels=2", r"model\.channels is 2; it must be 1"),
        ("model.std=0", r"model\.std is 0"),
        ("model.mean=[0.5,0.5]", r"model\.mean has 2 values"),
        ("model.mean=gray", r"model\.mean is 'gray'; it must be a number, or a list with one per channel"),
        ("model.std=[a]", r"model\.std is \['a'\]; it must be a number"),
        ("model.std=null", r"model\.std is None; it must be a number"),
        ("model.image_size=2000", r"model\.image_size is 2000; it must be a whole number from 1 to"),
        ("eval.views=null", "None' must be an option of conf/"),
        ("resume=true", "resume is True; it must be auto or a run's last.ckpt"),
        ("augmentation.policy.rotation=abc", r"policy\.rotation is 'abc'; give a number"),
    ],
)
def test_a_wrong_setting_is_reported_before_data_are_read(composed, monkeypatch, override: str, named: str) -> None:
    monkeypatch.setattr("fer_lightning.run.train.prepare_data", lambda _: pytest.fail("data were read"))
    with pytest.raises(CompactHydraException, match=named) as caught:
        train(composed(*TINY, *override.split()))
    assert "\n" not in str(caught.value)
    assert not Path(HydraConfig.get().runtime.output_dir).exists()


def test_a_deterministic_gradient_that_a_gpu_lacks_is_named(composed, monkeypatch) -> None:
    options = ["model=emonext", "model.name=test_convnext", "model.image_size=32", "trainer.deterministic=true"]
    dry_run(composed(*options, "trainer.accelerator=cpu"), StartPoint())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match=r"deterministic=true: .* gradient of grid_sample .*EmoNeXt needs"):
        dry_run(composed(*options), StartPoint())


CUSTOM_MODEL = """
from torch import nn

class Mine(nn.Module):
    def __init__(self, num_classes, channels, image_size, **others):
        super().__init__()
        self.head = nn.Linear(channels * image_size**2, num_classes)

    def forward(self, images):
        return self.head(images.flatten(1))
"""


@pytest.mark.parametrize(
    ("original", "replacement", "overrides", "message"),
    [
        ("", "", "finetune=gradual", r"finetune=gradual unfreezes stages\(\), and .*Mine has none"),
        (", num_classes)", ", 5)", "", r"mine\.Mine returns 1 x 5 values for one image, not 1 x 7 logits"),
        ("from torch", "from torhc", "", r"_target_ fer_lightning\.models\.mine\.Mine: No module named 'torhc'"),
        ("(nn.Module)", "(nn.Module", "", r"_target_ fer_lightning\.models\.mine\.Mine: .* \(mine\.py, line"),
    ],
)
def test_an_error_in_a_custom_model_is_reported(
    composed, tmp_path: Path, monkeypatch, original: str, replacement: str, overrides: str, message: str
) -> None:
    (tmp_path / "mine.py").write_text(CUSTOM_MODEL.replace(original, replacement))
    monkeypatch.setattr(fer_lightning.models, "__path__", [*fer_lightning.models.__path__, str(tmp_path)])
    monkeypatch.setattr(sys, "modules", {**sys.modules})  # removes it again afterwards
    with pytest.raises(CompactHydraException, match=message):
        train(composed(*TINY, "model._target_=fer_lightning.models.mine.Mine", *overrides.split()))


@pytest.mark.parametrize(
    "key", ["scheduler=plateau scheduler.monitor", "callbacks=early_stopping callbacks.early_stopping.monitor"]
)
def test_a_monitor_that_is_not_logged_is_named(composed, monkeypatch, key: str) -> None:
    monkeypatch.setattr("fer_lightning.run.train.prepare_data", lambda _: pytest.fail("data were read"))
    with pytest.raises(CompactHydraException, match=r"monitor is 'val/macrof1'; did you mean 'val/macro_f1'\?"):
        train(composed(*TINY, *f"{key}=val/macrof1".split()))


def test_a_setting_that_lightning_refuses_is_reported_in_one_sentence(composed) -> None:
    with pytest.raises(CompactHydraException, match="gradient_clip_algorithm") as caught:
        train(composed(*TINY, "trainer.gradient_clip_algorithm=foo"))
    assert "\n" not in str(caught.value)


def test_an_unknown_class_is_named_after_the_data_are_read(composed) -> None:
    with pytest.raises(CompactHydraException, match="objective is 'val/f1_hapy'; did you mean 'val/f1_happy'"):
        train(composed(*TINY, "objective=val/f1_hapy"))


def test_an_unknown_part_is_named_after_the_data_are_read(composed) -> None:
    with pytest.raises(CompactHydraException, match="protocol official has no such part; did you mean"):
        train(composed(*TINY, "eval.split=tset"))


def test_a_tracking_server_that_mlflow_does_not_know_is_named_before_the_data_are_read(composed) -> None:
    with pytest.raises(ValueError, match=r"tracking\.uri .* is 'foo://x'; it must begin with http://"):
        dry_run(composed("tracking.uri=foo://x"), StartPoint())


@pytest.mark.parametrize("model", sorted(path.stem for path in (ROOT / "conf" / "model").glob("*.yaml")))
def test_every_model_passes_a_dry_run_without_memory_or_weights(composed, model: str) -> None:
    options = ["model.name=resnet34.a1_in1k", "model.pretrained=true"] if model == "timm" else []
    dry_run(composed(f"model={model}", *options), StartPoint())  # nothing is downloaded


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("optimzer.lr=1", "there is no key 'optimzer.lr'; did you mean 'optimizer.lr'?"),
        ("optimizer.betaz=1", "there is no key 'optimizer.betaz'; did you mean 'optimizer.betas'? (+optimizer.betaz"),
        ("trainer.q=1", "there is no key 'trainer.q'; did you mean 'trainer'? (+trainer.q=... passes it as an"),
        ("+experiment=custom_cnn", "experiment is a group of every run: select its option with experiment=NAME, with"),
        ("batch_size=32", "there is no key 'batch_size'; did you mean 'trainer.batch_size'?"),
        ("max_epochs=3", "there is no key 'max_epochs'; did you mean 'data.max_epochs' or 'trainer.max_epochs'?"),
        ("modle=vgg", "there is no key 'modle'; did you mean 'model'?"),
        ("-m search=loss n_trials=3", "there is no key 'n_trials'; did you mean 'hydra.sweeper.n_trials'?"),
        ("optimzer.lr=1 modle=vgg", "there is no key 'optimzer.lr'; did you mean 'optimizer.lr'?"),
        ("model=custom_cnm", "model=custom_cnm: there is no such option; did you mean 'custom_cnn'? There are compact"),
        ("-m model=vgg,custom_cnm optimizer.lr=1,2", "model=custom_cnm: there is no such option"),
        ("hydra/sweeper=fer_optima", "hydra/sweeper=fer_optima: there is no such option; did you mean 'fer_optuna'?"),
        ("model", "model is not key=value"),
        ("paths.data_dir=a=b", "paths.data_dir=a=b cannot be parsed; if this is one value, quote it for Hydra: 'paths"),
        ("paths.data_dir=my\"file", "paths.data_dir=my\"file cannot be parsed: a quote in it is not closed"),
        ("hydra.run.dir=pyproject.toml", "hydra.run.dir=pyproject.toml is a file; it must be a folder"),
        ("hydra.run.dir=/proc/here", "hydra.run.dir=/proc/here: /proc cannot be written to"),
        ("resume=/proc/run/checkpoints/last.ckpt",
         "resume=/proc/run/checkpoints/last.ckpt (use another folder with hydra.run.dir=NEW): /proc cannot be"),
        ("-m seed=1,2 hydra.sweep.dir=pyproject.toml/x", "hydra.sweep.dir=pyproject.toml/x: pyproject.toml cannot be"),
        ("-m search=loss hydra.sweeper.n_trials=abc", "Error merging override hydra.sweeper.n_trials=abc: Value 'abc'"),
        ("-m optimizer.lr=tag(log,interval(1,2))", "optimizer.lr=tag(log,interval(1,2)) is a search range"),
        ("loss.gamma=2", "loss.gamma is a key of loss=focal: add that option"),
        ("data.path=fer2013.csv", "data.path is a key of data=fer2013 or data=folder: add that option"),
        ("eval.views.size=0.9", "eval.views.size is a key of eval=five_crop or eval=ten_crop: add that option"),
        (
            "augmentation.policy.shear=2 augmentation=light",
            "augmentation.policy.shear is a key of augmentation=batched_light or augmentation=batched_standard or "
            "augmentation=batched_strong or augmentation=cutmix or augmentation=mixup: add that option",
        ),
        ("ensemble=ours_ensemble", "ensemble is not a group of a run"),
        ("--cfg job optimzer.lr=1", "there is no key 'optimzer.lr'; did you mean 'optimizer.lr'?"),
        ("-m --cfg job", "--cfg shows the configuration of one run"),
        ("--resolve", "--resolve belongs to --cfg"),
        ("optimizer.lr=1,2", "optimizer.lr=1,2 means several runs: add -m"),
        ("--cfg job model=vgg,compact", "model=vgg,compact means several runs: add -m"),
        ("search=loss", "search=loss needs a multirun: python train.py -m search=loss"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_reported_with_a_suggestion(monkeypatch, arguments: str, message: str) -> None:
    monkeypatch.chdir(ROOT)
    register_resolvers()
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the whole message is compared below
        check_command_line(ROOT / "conf", arguments.split())
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    ["", "+trainer.accumulate_grad_batches=2", "-m model=vgg,custom_cnn seed=range(3)",
     "-m search=custom_cnn optimizer.lr=interval(1,2)",
     "-m experiment=glob(*)", "--cfg job search=loss --resolve", "search=custom_cnn optimizer.lr=1e-3",
     "-p model --cfg job model=vgg", "--info searchpath",
     "~tracking", "~search", "resume=auto", "hydra.mode=MULTIRUN seed=1,2"],
)  # fmt: skip
def test_correct_arguments_pass(arguments: str) -> None:
    register_resolvers()
    check_command_line(ROOT / "conf", arguments.split())
