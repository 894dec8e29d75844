"""The MLflow model, as code: ``mlflow.pyfunc.load_model`` runs this file, no pickle is involved.

Rows ask, the answer has one row for each, in their order. Every column is optional:

    user_id, review_text, liked_items, candidates, exclude, k, exclude_seen, popularity_weight, why

Parameters of the same names (but the first three) hold for the rows that say nothing themselves.
See :class:`symcere.serving.Request` for what they mean, and :mod:`symcere.serving.service` for what happens to a user
who is not known.
"""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel

ROW = ("user_id", "review_text", "liked_items")
SETTINGS = ("candidates", "exclude", "k", "exclude_seen", "popularity_weight", "why")
ANSWER = ("user_id", "basis", "items", "scores", "titles", "why", "notes")


class Recommender(PythonModel):
    """A :class:`symcere.serving.Service` behind MLflow's interface."""

    def load_context(self, context: Any) -> None:
        from symcere.serving import load

        self.service = load(Path(context.artifacts["recommender"]))
        _ = self.service.users, self.service.items  # made once, here, and not in the first request

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """A data frame of requests → one of answers; see the module.

        Raises:
            MlflowException: a request that cannot be answered; over HTTP it is answered with status 400.
        """
        from symcere.errors import UserError
        from symcere.serving import Request

        known = [name for name in (*ROW, *SETTINGS) if name in model_input.columns]
        if not known:  # MLflow has dropped the columns that it does not know, and the rows with them
            raise _refused(f"No column of the input is known; there are {', '.join((*ROW, *SETTINGS))}.")
        common = {name: value for name, value in (params or {}).items() if name in SETTINGS and not _empty(value)}
        columns = {name: model_input[name].tolist() for name in known}
        try:
            requests = []
            for n in range(len(model_input)):
                row = {name: values[n] for name, values in columns.items() if not _missing(values[n])}
                requests.append(Request(**{name: _value(name, value) for name, value in {**common, **row}.items()}))
            answers = self.service.recommend(requests)
        except UserError as error:
            raise _refused(str(error)) from error
        # As objects: pandas would make NaN, which JSON does not know, of a missing id.
        columns = {name: [getattr(answer, name) for answer in answers] for name in ANSWER}
        return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})


def _missing(value: Any) -> bool:
    """None, NaN or "": nothing was said. An empty list says something: that nothing is in stock."""
    if hasattr(value, "__len__"):
        return isinstance(value, str) and not value
    return value is None or value is pd.NA or value != value


def _empty(value: Any) -> bool:
    """Of a parameter, whose default is an empty list."""
    return _missing(value) or (hasattr(value, "__len__") and len(value) == 0)


def _value(name: str, value: Any) -> Any:
    from symcere.serving import raw_id

    if name in ("liked_items", "candidates", "exclude"):
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            raise _refused(f"{name} must be a list of item ids, not {value!r}.")
        return tuple(item for raw in value if (item := raw_id(raw)))
    if name in ("exclude_seen", "why"):
        if not isinstance(value, (bool, np.bool_)):
            raise _refused(f"{name} must be true or false, not {value!r}.")
        return bool(value)
    if name in ("k", "popularity_weight"):
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number)):
            raise _refused(f"{name} must be a number, not {value!r}.")
        if name == "k" and not float(value).is_integer():
            raise _refused(f"k must be a whole number, not {value}.")
        return int(value) if name == "k" else float(value)
    return raw_id(value) if name == "user_id" else str(value)


def _refused(text: str) -> MlflowException:
    return MlflowException.invalid_parameter_value(" ".join(text.split()))


mlflow.models.set_model(Recommender())
