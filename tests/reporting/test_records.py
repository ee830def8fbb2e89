from fer_lightning.reporting import records


def test_words_that_change_no_result_make_no_other_training() -> None:
    typed = ["experiment=custom_cnn", "optimizer.lr=1e-3"]
    besides = ["seed=0", "data.workers=2", "data.path=/x/fer2013.csv", "tracking=none", "resume=auto", "paths.a=b"]
    assert records.settings_typed([*besides, *typed]) == typed
    assert records.settings_typed([*typed, "seed=1"]) != records.settings_typed(typed)
