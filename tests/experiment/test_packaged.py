import pytest

from agentrl import errors
from agentrl.experiment import files, packaged


def test_every_packaged_experiment_loads_by_name():
    names = packaged.names()
    assert {"demo", "smollm2"} <= names.keys()
    for name, path in names.items():
        assert files.read_experiment(packaged.find(name)).stages
        assert packaged.summary(path)


def test_a_file_goes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").write_text("")
    assert not packaged.find("demo").is_absolute()


def test_files_beside_that_of_the_folder_carry_both_names(tmp_path, monkeypatch):
    monkeypatch.setattr(packaged, "FOLDER", tmp_path)
    (tmp_path / "recipes").mkdir()
    for name in ("recipes", "ppo"):
        (tmp_path / "recipes" / f"{name}.py").write_text("def get_config(): ...\n")
    (tmp_path / "recipes" / "shared.py").write_text("SIZE = 1\n")
    assert list(packaged.names()) == ["recipes/ppo", "recipes"]


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(errors.ConfigError, match="Did you mean 'smollm2'"):
        packaged.find("smolm2")
