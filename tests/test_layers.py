from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports


def test_packages_import_only_in_the_directions_that_the_contracts_allow(pytestconfig, capsys):
    config = str(pytestconfig.rootpath / "pyproject.toml")
    code = lint_imports(config_filename=config, no_cache=True, no_logo=True)
    assert code == EXIT_STATUS_SUCCESS, capsys.readouterr().out
