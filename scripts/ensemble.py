"""An ensemble of two-stage trainings in one program, written on the public API.

    python scripts/ensemble.py --data idx:../shared/data/mnist --members 10

Both stages of a member are one pure function of its key. `ts.ensemble` maps it over the members, in
chunks that fit into memory, on all devices. Measured once with 5+5 epochs, jax 0.10.2 on two cores
of an AMD EPYC: members 97.11 ± 0.10 %, ensemble 97.77 % of the test split, in 88 s.
"""

import argparse

import jax
import numpy as np

import twostage_jax as ts


def fit(stage, key, data, epochs):
    """Train a stage from its initial values and return the parameters."""
    tx = ts.adam(0.001)
    examples = {name: values[:2] for name, values in data.items()}
    state = ts.init_state(stage, tx, jax.random.fold_in(key, 0), examples)
    train = ts.make_train(stage, tx, batch_size=32, epochs=epochs)
    return train(state, data, jax.random.fold_in(key, 1))[0].params


def make_pipeline(encoder, decoder, head, epochs):
    """Make `(key, train) -> params`, both stages of one member."""

    def pipeline(key, train):
        stage_1 = ts.autoencoder(encoder, decoder)
        frozen = fit(stage_1, jax.random.fold_in(key, 0), train, epochs)["encoder"]
        features = encoder.apply(frozen, ts.as_image(train["image"]))
        stage_2 = ts.classifier(ts.Identity(), head)
        data = {**train, "image": features}
        trained = fit(stage_2, jax.random.fold_in(key, 1), data, epochs)["head"]
        return {"encoder": frozen, "head": trained}

    return pipeline


def main():
    """Train the members and print their scores and the score of the ensemble."""
    parser = argparse.ArgumentParser(description="An ensemble in one program.")
    parser.add_argument("--data", default="digits", help="SPEC of the data: digits, idx:DIR, …")
    for name, value in {"members": 10, "epochs": 5, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    dataset = ts.load(args.data)
    encoder = ts.MLP((256, 128), torch_init=True)
    decoder = ts.MLP((256, int(np.prod(dataset.image_shape))), torch_init=True)
    head = ts.MLP((64, len(dataset.classes)), torch_init=True)
    train_all = ts.ensemble(make_pipeline(encoder, decoder, head, args.epochs), in_axes=(0, None))
    params = train_all(jax.random.split(jax.random.key(args.seed), args.members), dataset.train)

    image = ts.as_image(dataset.test["image"])
    label = dataset.test["label"]
    logits = jax.vmap(ts.make_logits(encoder, head), in_axes=(0, None))(params, image)
    probability = jax.nn.softmax(logits)
    members = (probability.argmax(-1) == label).mean(-1)
    print(f"members  {100 * members.mean():.2f} ± {100 * members.std(ddof=1):.2f} %")
    print(f"ensemble {100 * (probability.mean(0).argmax(-1) == label).mean():.2f} %")


if __name__ == "__main__":
    main()
