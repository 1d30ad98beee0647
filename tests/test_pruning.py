"""When a trial of a search ends early: limits on its lowest loss after each epoch, fixed before it begins."""

from __future__ import annotations

from harness.study.journal import FAILED, FINISHED, PRUNED, RUNNING, Tried
from harness.study.pruning import ANY, hyperband, median, none


def tried(*lowest: float, number: int = 0, state: str = FINISHED) -> Tried:
    return Tried(number, {}, (), state, lowest)


def test_the_median_waits_for_four_finished_trials_and_for_the_first_epochs():
    done = [tried(0.9, 0.8, 0.7, 0.6), tried(0.7, 0.6, 0.5, 0.4), tried(0.8, 0.5, 0.4, 0.3)]
    others = [tried(0.1, state=PRUNED), tried(state=FAILED), tried(state=RUNNING)]
    assert median(6, done + others, 4) == []
    assert median(7, [*done, *others, tried(0.6, 0.4, 0.3, 0.2)], 4) == [ANY, 0.55, 0.45]
    assert median(7, [*done, tried(0.6)], 10)[0:1] == [ANY]


def test_a_trial_that_stopped_early_counts_with_what_it_had_reached():
    done = [tried(0.9, 0.8), tried(0.9, 0.7, 0.5, 0.4), tried(0.9, 0.8), tried(0.9, 0.6, 0.6, 0.6)]
    assert median(4, done, 4) == [ANY, 0.75, 0.7]


def test_long_trainings_are_left_alone_for_a_fifth_of_their_epochs():
    done = [tried(*[0.5] * 20)] * 4
    assert median(4, done, 20) == [ANY] * 3 + [0.5] * 16
    assert median(4, done, 2) == [ANY]
    assert median(4, done, 1) == []


def test_hyperband_lets_the_best_third_of_a_bracket_go_on():
    # 20 epochs: brackets begin at 1, 3 and 9 epochs, and trials take turns.
    losses = (0.9, 0.5, 0.7, 0.6, 0.8)
    done = [tried(*[loss] * 20, number=3 * place) for place, loss in enumerate(losses)]
    limits = hyperband(15, done, 20)  # of six, itself included, two go on
    assert limits == [0.6, ANY, 0.6, ANY, ANY, ANY, ANY, ANY, 0.6]
    assert hyperband(16, done, 20) == [ANY] * 9  # the first of its bracket
    later = [tried(*[0.4] * 20, number=1), tried(0.9, 0.9, 0.9, number=4, state=PRUNED), tried(0.3, number=7, state=PRUNED)]
    assert hyperband(10, later, 20) == [ANY, ANY, 0.4, ANY, ANY, ANY, ANY, ANY, 0.4]  # the third had not come to 3 epochs


def test_hyperband_and_optuna_agree_on_who_goes_on():
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    study = optuna.create_study(pruner=pruner)
    done: list[Tried] = []
    for number, loss in enumerate((0.5, 0.9, 0.4, 0.7, 0.45, 0.3, 0.8, 0.42, 0.35)):
        limits = hyperband(0, done, 3)  # one bracket, compared after the first epoch
        trial = study.ask()
        trial.report(loss, 1)
        pruned = trial.should_prune()
        assert pruned == (loss > (limits[0] if limits else ANY))
        study.tell(trial, None if pruned else loss, optuna.trial.TrialState.PRUNED if pruned else None)
        done.append(tried(*([loss] if pruned else [loss] * 3), number=0, state=PRUNED if pruned else FINISHED))
        assert number == trial.number


def test_nothing_is_pruned_without_a_pruner():
    assert none(9, [tried(0.1, 0.1)] * 9, 2) == []
    assert hyperband(9, [tried(0.1)] * 9, 1) == []
