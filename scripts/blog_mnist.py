"""The blog's two-stage program on MNIST, written on the public API.

    python scripts/blog_mnist.py --data idx:../shared/data/mnist

`--objective autoencoder` is S1, the program as its text means it: stage 1 learns to reconstruct
the image. `--objective placeholder` is S0, the program as printed: stage 1 trains nothing. Test
accuracy after 5+5 epochs, mean and standard deviation over seeds 0 to 4, jax 0.10.2 on two CPU
cores: S1 97.19 ± 0.04 %, S0 91.30 ± 0.54 %.
"""

import argparse

import jax
import numpy as np
import optax

import twostage_jax as ts

TITLES = ("Training Stage 1 (Feature Extraction)", "Training Stage 2 (Classification)")


def train(title, stage, tx, data, key, epochs, **pretrained):
    """Train a stage from its initial values and print the blog's line after each epoch."""
    print(title)
    state = ts.init_state(stage, tx, jax.random.fold_in(key, 0), data, **pretrained)
    one_epoch = jax.jit(ts.make_train(stage, tx, batch_size=32, epochs=1))
    for epoch in range(epochs):
        state, metrics = one_epoch(state, data, jax.random.fold_in(key, 1))
        print(f"Epoch [{epoch + 1}/{epochs}], Loss: {metrics['loss'][0]:.4f}")
    return state.params


def main():
    """Train both stages and print the accuracy on the test split."""
    parser = argparse.ArgumentParser(description="The blog's two-stage program.")
    parser.add_argument("--data", default="mnist", help="SPEC of the data: mnist, idx:DIR, …")
    parser.add_argument("--objective", default="autoencoder", help="autoencoder or placeholder")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of each stage")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random numbers")
    args = parser.parse_args()
    keys = jax.random.split(jax.random.key(args.seed))

    dataset = ts.load(args.data, validation=0)
    data = jax.device_put(dataset.train)
    encoder = ts.MLP((256, 128), torch_init=True)
    decoder = ts.MLP((256, int(np.prod(dataset.image_shape))), torch_init=True)
    head = ts.MLP((64, len(dataset.classes)), torch_init=True)
    s1 = args.objective == "autoencoder"
    stage_1 = ts.autoencoder(encoder, decoder) if s1 else ts.placeholder(encoder)
    frozen = train(TITLES[0], stage_1, optax.adam(0.001), data, keys[0], args.epochs)["encoder"]
    stage_2 = ts.classifier(encoder, head)
    tx = ts.freeze(optax.adam(0.001), "encoder")
    params = train(TITLES[1], stage_2, tx, data, keys[1], args.epochs, encoder=frozen)
    scores = ts.evaluate(ts.make_logits(encoder, head), params, dataset.test)
    print(f"Test Accuracy: {100 * scores['accuracy']:.2f}%")


if __name__ == "__main__":
    main()
