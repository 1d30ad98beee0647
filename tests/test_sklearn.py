"""harness.Classifier: scikit-learn's own checks, its tools, and that it trains what `harness run` trains."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from conftest import motif_examples
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError, SkipTestWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks as checks
from sklearn.utils.validation import check_is_fitted, validate_data

import harness as face
from harness.data import Window
from harness.engine.build import request
from harness.engine.classifier import Classifier as Model
from harness.engine.predict import predict
from harness.errors import BadData, UnknownName, UserError

EXAMPLES = motif_examples(60)
X = [example.windows[0].sequence for example in EXAMPLES]
Y = np.array(["without", "with"])[[int(example.label) for example in EXAMPLES]]  # type: ignore[arg-type]
TINY = {"init": "random:tiny", "precision": "float32", "device": "cpu"}
PLAIN = {"precision": "float32", "device": "cpu"}


class Numbers(face.Classifier):
    """The estimator on numbers, which all checks but a few need: each becomes a stretch of two letters mixed in its proportion."""

    def fit(self, X, y):
        text = self._text(X, reset=True)
        columns = self.n_features_in_
        super().fit(text, y)
        self.n_features_in_ = columns
        return self

    def predict_proba(self, X):
        check_is_fitted(self)
        return super().predict_proba(self._text(X, reset=False))

    def _text(self, X, reset):
        steps = (np.asarray(validate_data(self, X, reset=reset))[:, :, None] > np.linspace(-3, 3, 20)).sum(axis=-1)
        pairs = ("AC", "GT")
        return ["".join(pairs[at % 2][0] * (20 - n) + pairs[at % 2][1] * n for at, n in enumerate(row)) for row in steps.tolist()]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array, tags.input_tags.two_d_array = False, True
        return tags


class TestChecksOfScikitLearn:
    @pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # of their data
    def test_every_check_passes_on_numbers_as_letters(self):
        found = checks.check_estimator(Numbers("gc", **PLAIN), on_fail=None, on_skip=None)
        assert len(found) > 50
        failed = {one["check_name"]: str(one["exception"])[:300] for one in found if one["status"] not in ("passed", "skipped")}
        assert failed == {}
        assert {one["check_name"] for one in found if one["status"] == "skipped"} <= {"check_array_api_input"}

    @pytest.mark.parametrize(
        "check",
        [
            checks.check_estimator_cloneable,
            checks.check_estimator_tags_renamed,
            checks.check_valid_tag_types,
            checks.check_estimator_repr,
            checks.check_no_attributes_set_in_init,
            checks.check_do_not_raise_errors_in_init_or_set_params,
            checks.check_mixin_order,
            checks.check_parameters_default_constructible,
            checks.check_get_params_invariance,
            checks.check_set_params,
        ],
    )
    def test_those_without_data_pass_as_it_is(self, check):
        check("Classifier", face.Classifier("cnn", **TINY))

    def test_it_says_that_it_reads_text_not_numbers(self):
        with pytest.warns(SkipTestWarning, match="one_d_array=True, two_d_array=False.*string=True"):
            checks.check_estimator(face.Classifier("gc", **PLAIN), legacy=False)


@pytest.fixture(scope="module")
def fitted():
    return face.Classifier("kmer", **PLAIN).fit(X, Y)


class TestFitting:
    def test_it_learns_and_names_classes(self, fitted):
        assert list(fitted.classes_) == ["with", "without"]
        assert fitted.score(X, Y) > 0.9
        assert set(fitted.predict(X)) == {"with", "without"}
        probabilities = fitted.predict_proba(X)
        assert probabilities.shape == (60, 2)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1)
        assert fitted.n_features_in_ == 1
        assert fitted.recipe_.tune == "probe"

    def test_every_form_of_sequences_gives_the_same(self, fitted):
        expected = fitted.predict_proba(X)
        forms = [tuple(X), np.array(X), np.array(X, object), np.array(X)[:, None], pd.Series(X), pd.DataFrame({"sequence": X})]
        forms += [[Window(text) for text in X], [text.lower().replace("t", "u") for text in X]]
        for form in forms:
            assert np.array_equal(fitted.predict_proba(form), expected)
        again = face.Classifier("kmer", **PLAIN).fit(pd.Series(X, index=range(100, 160)), pd.Series(Y))
        assert np.array_equal(again.predict_proba(X), expected)

    def test_it_trains_as_the_engine_does(self):
        """The numbers are those of engine.fit on the same split with the same seed."""
        import torch
        from accelerate import Accelerator

        from harness.data import Example
        from harness.engine.fit import fit
        from harness.inference.sklearn import _split

        estimator = face.Classifier("cnn", **TINY, epochs=2, random_state=3).fit(X, Y)
        labels = np.unique(Y, return_inverse=True)[1]
        examples = [Example(str(at), (Window(text),), int(label)) for at, (text, label) in enumerate(zip(X, labels))]
        train, held_out = ([examples[at] for at in part] for part in _split(labels, 0.1, 3))
        assert (len(train), len(held_out)) == (54, 6)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            model = Model(request("cnn", init="random:tiny").build(), 2, estimator.recipe_)
            history = fit(model, train, held_out, estimator.recipe_, Accelerator(cpu=True), seed=3).history
        assert [epoch["train_loss"] for epoch in estimator.history_] == [epoch["train_loss"] for epoch in history]
        assert np.array_equal(estimator.predict_proba(X), predict(model, examples, Accelerator(cpu=True)))

    def test_seeds(self):
        def probabilities(seed):
            return face.Classifier("cnn", **TINY, epochs=1, random_state=seed).fit(X, Y).predict_proba(X[:5])

        assert np.array_equal(probabilities(0), probabilities(0))
        assert not np.array_equal(probabilities(0), probabilities(1))
        assert np.array_equal(probabilities(np.random.RandomState(5)), probabilities(np.random.RandomState(5)))

    def test_each_class_is_held_out(self):
        from harness.inference.sklearn import _split

        train, held_out = _split(np.array([0] * 40 + [1] * 5 + [2]), 0.1, 0)
        assert sorted([*train, *held_out]) == list(range(46))
        assert [int((held_out < 40).sum()), int(((held_out >= 40) & (held_out < 45)).sum()), int((held_out == 45).sum())] == [
            4,
            1,
            0,
        ]
        train, held_out = _split(np.array([0, 1]), 0.5, 0)
        assert train.tolist() == held_out.tolist() == [0, 1]

    def test_lora(self):
        estimator = face.Classifier("rnafm", **TINY, tune="lora", epochs=1).fit(X, Y)
        assert pickle.loads(pickle.dumps(estimator)).predict_proba(X[:3]).shape == (3, 2)


class TestTools:
    def test_pickle_and_clone(self, fitted):
        again = pickle.loads(pickle.dumps(fitted))
        assert np.array_equal(again.predict_proba(X), fitted.predict_proba(X))
        fresh = clone(fitted)
        assert fresh.get_params() == fitted.get_params()
        with pytest.raises(NotFittedError):
            fresh.predict(X)

    def test_parameters_are_the_settings_too(self):
        estimator = face.Classifier("cnn", epochs=3)
        assert (estimator.get_params()["epochs"], estimator.get_params()["patience"]) == (3, None)
        assert estimator.set_params(epochs=1, model="gc").epochs == 1
        with pytest.raises(ValueError, match="Invalid parameter 'epoch'"):
            estimator.set_params(epoch=1)
        with pytest.raises(TypeError, match="no parameter 'epoch'"):
            face.Classifier("cnn", epoch=1)

    def test_cross_validation_pipelines_and_grids(self):
        estimator = face.Classifier("kmer", **PLAIN)
        assert cross_val_score(estimator, np.array(X), Y, cv=3).mean() > 0.7
        upper = FunctionTransformer(lambda texts: [text.upper() for text in texts])
        chain = make_pipeline(upper, estimator)
        grid = GridSearchCV(chain, {"classifier__model": ["gc", "kmer"]}, cv=2).fit([text.lower() for text in X], Y)
        assert grid.best_params_ == {"classifier__model": "kmer"}
        table = pd.DataFrame({"id": range(60), "sequence": X})
        column = ColumnTransformer([("sequence", "passthrough", ["sequence"])])
        assert make_pipeline(column, estimator).fit(table, Y).score(table, Y) > 0.9

    def test_importing_harness_stays_light(self):
        assert "Classifier" in face.__all__
        with pytest.raises(AttributeError, match="no attribute 'classifier'"):
            face.classifier  # noqa: B018


class TestMistakes:
    def test_of_sequences(self, fitted):
        for bad, words in (("AC!", "X.1.: letters '!'"), (3.5, "X.1.: '3.5' is a float"), ("", "X.1.: '' is a str")):
            with pytest.raises(BadData, match=words):
                fitted.predict(["ACGT", bad])
        for bad, words in (("ACGT", "X is a str"), (np.zeros((3, 2)), "shape .3, 2."), ([], "X has 0 sequences")):
            with pytest.raises(ValueError, match=words):
                fitted.predict(bad)
        with pytest.raises(BadData, match=r"X\[1\]: 600 nt, but dnabert1 takes at most 515"):
            face.Classifier("dnabert1", **TINY).fit(["ACGTACGT", "A" * 600], [0, 1])

    def test_of_labels(self):
        estimator = face.Classifier("gc", **PLAIN)
        for bad, words in (
            (None, "requires y"),
            (Y[:5], "inconsistent"),
            (["a"] * 60, "1 class"),
            (np.linspace(0, 1, 60), "continuous"),
        ):
            with pytest.raises(ValueError, match=words):
                estimator.fit(X, bad)

    def test_of_settings(self):
        with pytest.raises(UnknownName, match="did you mean kmer"):
            face.Classifier("kmers").fit(X, Y)
        with pytest.raises(UserError, match="tune 'zero': fits nothing"):
            face.Classifier("rnafm", **TINY, tune="zero").fit(X, Y)
        with pytest.raises(UserError, match="epochs 0: must be a whole number"):
            face.Classifier("cnn", **TINY, epochs=0).fit(X, Y)
        with pytest.raises(ValueError, match="validation_fraction=1"):
            face.Classifier("gc", **PLAIN, validation_fraction=1).fit(X, Y)
