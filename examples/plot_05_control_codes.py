"""
Teach a frozen model a new skill with a control code
====================================================

Large models are often out of reach: their weights cannot be changed, and they answer through an interface that returns
numbers and no gradients. What can be chosen is their input. Some of its channels carry the data here; the others are a
*soft prompt*, a handful of numbers that is trained like the weights of any physical device (prompt tuning, Lester et al.
2021, but from the model's answers alone).

The model is a small transformer that was trained for a few seconds on random functions of 64 numbers, each named by a code
in its prompt. It has never seen a digit. Then it is frozen, put behind a plain function, and asked to read digits.

It has only six outputs, and nothing digital is trained but gains and a linear readout of them. So the question is what the
*code* is worth: the row to beat is the same model with random codes and a readout fitted just as well.
"""

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score, train_test_split

from skpat import ControlSplit, PhysicalNetworkClassifier
from skpat.devices import FrozenModel, IdentityDevice, embed_sentences, sentence_device

X, y = load_digits(return_X_y=True)
X = X / 8 - 1  # pixels from -1 to 1
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.25, random_state=0)
X_fit, X_val, y_fit, y_val = train_test_split(X_train, y_train, test_size=100, random_state=0)

model = FrozenModel()  # built, and trained on its own skills, when it is first asked
print(f"{model.n_data} data channels, {model.n_prompt} prompt channels, {model.n_outputs} outputs")

# %%
# Put behind a function, the model has no gradient to give: ``forward`` is gone.


def ask(inputs):
    """What an interface would be: numbers in, numbers out."""
    return model.measure(inputs)


answers_only = FrozenModel(function=ask, n_data=model.n_data, n_prompt=model.n_prompt, n_outputs=model.n_outputs)
print(f"gradient of the module: {hasattr(model, 'forward')}, of the function: {hasattr(answers_only, 'forward')}\n")

# %%
# The row to beat: random codes, and the best linear readout of the answers to them.


def with_random_code(seed):
    """Accuracy of the untrained system: a code drawn at random, the readout fitted."""
    code = np.random.default_rng(seed).uniform(-1, 1, model.n_prompt)
    fit, test = (model.measure(np.hstack([rows, np.tile(code, (len(rows), 1))])) for rows in (X_train, X_test))
    mean, scale = fit.mean(axis=0), fit.std(axis=0)
    readout = LogisticRegression(C=100, max_iter=5000).fit((fit - mean) / scale, y_train)
    return readout.score((test - mean) / scale, y_test)


random_codes = [with_random_code(seed) for seed in range(10)]

# %%
# Train the code. The twin of physics-aware training learns from the model's answers alone.

split = ControlSplit(model.data_index)  # every other channel is the prompt
methods = {
    "physics-aware, from answers alone": dict(device=answers_only, gradient="physics_aware"),
    "exact gradient, through the module": dict(device=model, gradient="exact"),
    "in silico": dict(device=answers_only, gradient="in_silico"),
    "identity in place of the model": dict(device=IdentityDevice.like(model, split), gradient="exact"),
}
trained = {}
print(f"{'':<38}{'test accuracy':>14}{'questions asked':>17}")
for method, how in methods.items():
    classifier = PhysicalNetworkClassifier(
        **how,
        control_split=split,
        encoder="direct",
        readout="linear",
        learning_rate_init=0.05,
        batch_size=32,
        max_iter=10,
        random_state=0,
    ).fit(X_fit, y_fit, X_val=X_val, y_val=y_val)
    shots = 0 if method.startswith("identity") else sum(classifier.shots_.values())
    trained[method] = classifier, classifier.score(X_test, y_test)
    print(f"{method:<38}{trained[method][1]:>13.1%}{shots:>17,}", flush=True)
logistic = LogisticRegression(max_iter=5000).fit(X_train, y_train).score(X_test, y_test)
print(f"{'random codes, readout fitted (mean)':<38}{np.mean(random_codes):>13.1%}{len(X_train):>17,}")
print(f"{'logistic regression on all 64 pixels':<38}{logistic:>13.1%}{0:>17,}")

# %%
# Logistic regression reads all 64 pixels and is the better digit reader: the frozen model squeezes a digit into six numbers
# through functions that were made for something else. Six plain means of pixels would do (the row of the identity): for digits
# this model is no gain. What the code adds is the distance to the random codes.

figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
ax = axes[0]
for method, color in zip(list(methods)[:2], ("C0", "0.4"), strict=True):
    classifier, accuracy = trained[method]
    label = f"{method} (test: {accuracy:.0%})"
    ax.plot([0, *classifier.shots_curve_], [0.1, *classifier.validation_scores_], color=color, label=label)
ax.axhspan(min(random_codes), max(random_codes), color="C3", alpha=0.3, label="random codes, readout fitted")
ax.set(xlabel="questions asked", ylabel="accuracy on the validation rows", ylim=(0, 1), title="Learning a code")
ax.legend(loc="lower right", fontsize="x-small")

classifier = trained["physics-aware, from answers alone"][0]
calls = []


def ask_and_note(inputs):
    """The same function, keeping what it was sent and what it answered."""
    calls.append((inputs, model.measure(inputs)))
    return calls[-1][1]


classifier.device_ = classifier.device_.set_params(function=ask_and_note)
classifier.predict(X_test)
sent, answers = (np.concatenate(parts) for parts in zip(*calls, strict=True))

ax = axes[1]
image = ax.imshow(sent[0, model.prompt_index].reshape(2, -1), cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
ax.set(yticks=[0, 1], xlabel="channel of the token", ylabel="prompt token", title="The code that reads digits")
figure.colorbar(image, ax=ax)

ax = axes[2]
centred = answers - answers.mean(axis=0)
plane = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
points = ax.scatter(*plane.T, c=y_test, cmap="tab10", s=8)
ax.set(xlabel="first principal axis", ylabel="second", title="Answers to the test digits")
figure.colorbar(points, ax=ax, ticks=range(10), label="digit")

path = Path(__file__).with_suffix(".png") if "__file__" in globals() else Path("plot_05_control_codes.png")
figure.savefig(path, dpi=120)
print(f"\nThe figure is in {path}")

# %%
# The same with a real sentence encoder. Weights are not part of this package: name a model that transformers can load, for
# example ``SKPAT_ENCODER=sentence-transformers/all-MiniLM-L6-v2``, with ``pip install "skpat[encoder]"``. Its words are the
# data, a soft prompt of four tokens in front of them is trained, and what is learned is whether a sentence is about
# weather or about cooking.

WEATHER = """the rain fell all night|a cold wind blew from the north|clouds gathered over the hills|the storm passed quickly
it will be sunny tomorrow|snow covered the fields|a thick fog hid the harbour|thunder woke the children
the air was dry and hot|frost formed on the windows|a light breeze cooled us|hail damaged the roofs
the forecast promised showers|it drizzled until noon|the heat lasted for weeks|lightning struck an old tree"""
COOKING = """chop the onions finely|bring the water to the boil|bake it for forty minutes|season the soup with salt
stir the sauce slowly|knead the dough by hand|fry the garlic in oil|whisk the eggs and sugar
let the stew simmer gently|roast the carrots with honey|grate the cheese on top|peel and slice the apples
drain the pasta well|melt the butter in a pan|serve the fish with lemon|fold the cream into the batter"""


def learn_sentences(path):
    """Physics-aware training of the prompt against random prompts with a fitted readout."""
    weather, cooking = (text.replace("\n", "|").split("|") for text in (WEATHER, COOKING))
    device = sentence_device(path, n_tokens=12, n_outputs=4)
    X, y = embed_sentences(path, [*weather, *cooking], 12), np.repeat(["weather", "cooking"], 16)
    code = np.random.default_rng(0).uniform(-1, 1, device.n_prompt).astype(X.dtype)
    answers = device.measure(np.hstack([X, np.tile(code, (len(X), 1))]))
    answers = (answers - answers.mean(axis=0)) / answers.std(axis=0)
    network = PhysicalNetworkClassifier(
        device, control_split=ControlSplit(device.data_index), encoder="direct", learning_rate_init=0.05, random_state=0
    )
    rows = {
        "physics-aware, from answers alone": cross_val_score(network, X, y, cv=4),
        "random code, readout fitted": cross_val_score(LogisticRegression(C=100), answers, y, cv=4),
        "logistic regression on all embeddings": cross_val_score(LogisticRegression(), X, y, cv=4),
    }
    for name, scores in rows.items():
        print(f"{name:<38}{scores.mean():>13.1%}")


if "SKPAT_ENCODER" in os.environ:
    learn_sentences(os.environ["SKPAT_ENCODER"])
else:
    print("No sentence encoder was tried: set SKPAT_ENCODER to a model that transformers can load.")
