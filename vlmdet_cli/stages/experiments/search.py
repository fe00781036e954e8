"""A search: trials of an experiment whose values Optuna chooses, each by what the trials before it have measured.

    out/experiments/tune.log    Optuna's journal: `optuna-dashboard out/experiments/tune.log` draws it

A trial is a variant like any other, with a run of its own. A stopped search goes on with the trial that it was in. The
values of a trial depend on the seed, its number and the trials before it, not on stops in between.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from vlmdet_cli.core.locks import lock
from vlmdet_cli.errors import UsageError
from vlmdet_cli.project.experiments import Variant
from vlmdet_cli.project.searches import Range, Search

if TYPE_CHECKING:
    import optuna

FOLDER = "experiments"  # of the journals, under the output folder
Measure = Callable[[Variant], float | None]  # F1, None where the variant failed


def run_search(search: Search, output: Path, measure: Measure) -> None:
    """Measure all trials of the search, in their order.

    Raises ``UsageError`` where Optuna is not installed, where the journal is of another search, and where another
    process is at work on it.
    """
    with _study(search, output / FOLDER) as study:
        import optuna

        for number in range(search.trials):
            trial = _trial(study, search, number)
            value = measure(search.variant(number, _values(search, trial.params)))
            if not study.trials[number].state.is_finished():  # else it keeps what it was told, also of a failure
                study.tell(number, value, state=None if value is not None else optuna.trial.TrialState.FAIL)


def known_trials(search: Search, output: Path) -> list[Variant]:
    """The trials that have been chosen already, without a look at Optuna where there is no journal."""
    if not _journal(search, output / FOLDER).is_file():
        return []
    with _study(search, output / FOLDER) as study:
        return [search.variant(trial.number, _values(search, trial.params)) for trial in study.trials[: search.trials]]


@contextlib.contextmanager
def _study(search: Search, folder: Path) -> Iterator["optuna.Study"]:
    """The search's study, for this process alone."""
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError:
        raise UsageError(
            f"The experiment {search.name} is a search, and Optuna is not installed",
            hint="Install it: pip install 'vlmdet[search]'.",
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with lock(folder, f".{search.name}.lock"):
        storage = JournalStorage(JournalFileBackend(str(_journal(search, folder))))
        study = optuna.create_study(storage=storage, study_name=search.name, direction="maximize", load_if_exists=True)
        _require_same_search(study, search, folder)
        yield study


def _journal(search: Search, folder: Path) -> Path:
    return folder / f"{search.name}.log"


def _require_same_search(study: "optuna.Study", search: Search, folder: Path) -> None:
    """The journal holds what is searched; the number of trials may grow."""
    settings = {key: json.dumps(value) for key, value in _decisive(search).items()}
    before = study.user_attrs.get("settings", settings)
    if changed := [key for key in before | settings if before.get(key) != settings.get(key)]:
        raise UsageError(
            f"The search {search.name} was begun with other settings",
            why=[f"{key}: {before.get(key, 'nothing')} → {settings.get(key, 'nothing')}" for key in changed],
            hint=f"Rename the experiment, or remove {_journal(search, folder)} and the runs {search.name}-trial*.",
        )
    study.set_user_attr("settings", settings)


def _decisive(search: Search) -> dict[str, Any]:
    tree = msgspec.to_builtins(search)
    return {"sampler": tree["sampler"], "seed": tree["seed"], **tree["values"], **tree["space"]}


def _trial(study: "optuna.Study", search: Search, number: int) -> Any:
    """The trial of that number, whose values are chosen now where they are not yet."""
    import optuna

    if number < len(trials := study.trials):
        return trials[number]
    samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
    study.sampler = samplers[search.sampler](seed=search.seed * 100_003 + number)
    return study.ask({key: _distribution(axis) for key, axis in search.space.items()})


def _distribution(axis: "Range | list[Any]") -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(axis, list):
        return CategoricalDistribution([_choice(value) for value in axis])
    if isinstance(axis.low, int) and isinstance(axis.high, int) and not isinstance(axis.step, float):
        return IntDistribution(axis.low, axis.high, log=axis.log, step=axis.step or 1)
    return FloatDistribution(axis.low, axis.high, log=axis.log, step=axis.step)


def _choice(value: Any) -> Any:
    """A value as Optuna stores it: plain ones as they are, lists and tables as JSON."""
    return value if isinstance(value, str | int | float | bool) else json.dumps(value)


def _values(search: Search, chosen: dict[str, Any]) -> dict[str, Any]:
    """The values of a trial by dotted key, in the order of the space."""
    values = dict[str, Any]()
    for key, axis in search.space.items():
        same = [value for value in axis if _choice(value) == chosen[key]] if isinstance(axis, list) else []
        values[key] = same[0] if same else chosen[key]
    return values
