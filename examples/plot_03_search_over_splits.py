"""
Search over channel splits
==========================

Which channels should carry data, how many, and how many layers are worth their shots? These are parameters like any other,
so scikit-learn's own search answers. The noise of a simulated device can be searched too: how good a detector is needed?
"""

# %%
import pandas as pd
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MinMaxScaler

from skpat import ControlSplit, PhysicalNetworkClassifier
from skpat.devices import SecondHarmonicLaser

laser = SecondHarmonicLaser(n_controls=32, n_outputs=24, n_steps=4)  # a small one: quick to search
network = PhysicalNetworkClassifier(
    laser,
    control_split=ControlSplit(),  # an object, so that its parameters can be searched
    encoder="direct",
    readout="bins",
    learning_rate_init=0.05,
    max_iter=10,
    n_calibration_shots=200,
    random_state=0,
)
pipeline = Pipeline([("scale", MinMaxScaler()), ("network", network)])
grid = {
    "network__control_split__layout": ["interleaved", "contiguous"],
    "network__control_split__input_fraction": [0.3, 0.6],
    "network__device__noise": [0.0, 0.05],
    "network__n_layers": [1, 2],
}
X, y = load_iris(return_X_y=True)
search = GridSearchCV(pipeline, grid, cv=2, n_jobs=2).fit(X, y)

# %%
# The best combinations, and what each parameter does on average.

table = pd.DataFrame(search.cv_results_["params"]).rename(columns=lambda name: name.split("__", 1)[1])
table["accuracy"] = search.cv_results_["mean_test_score"]
table["std"] = search.cv_results_["std_test_score"]
print(table.sort_values("accuracy", ascending=False).head(5).to_string(index=False, float_format="{:.3f}".format), "\n")
for column in table.columns[:-2]:
    print(table.groupby(column)["accuracy"].mean().round(3).to_string(), "\n")
print(f"Best: {search.best_params_}, accuracy {search.best_score_:.3f}")
print(f"Shots of the final fit: {search.best_estimator_['network'].shots_}")
