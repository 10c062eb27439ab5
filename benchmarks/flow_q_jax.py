"""The update of Q-chunking with best-of-N in plain JAX, as a process that answers with times (`benchmarks/flow_q.py`).

    python flow_q_jax.py '{"batch": 256, "horizon": 5, ...}'      # then a number of updates per line of stdin

One jitted function makes a step of Adam on the flow loss and the loss of K critics, and moves the target network.
Matrices are LeCun-normal, hidden layers GELU, with LayerNorm in the critics. Needs nothing but jax; no raybc in here.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
import time

import jax
import jax.numpy as jnp


def layers(key, sizes, networks=()):
    """Weights and biases; networks: (K,) for an ensemble."""
    found = []
    for number, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        shape = (*networks, inputs, outputs)
        weights = jax.random.normal(jax.random.fold_in(key, number), shape) / math.sqrt(inputs)
        found.append((weights, jnp.zeros((*networks, 1, outputs) if networks else (outputs,))))
    return found


def mlp(params, x, norm=False):
    for weights, bias in params[:-1]:
        x = jax.nn.gelu(x @ weights + bias)
        if norm:
            x = (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-6)
    weights, bias = params[-1]
    return x @ weights + bias


def make(size):
    """(parameters, update)."""
    b, n, h, a, o = (size[name] for name in ("batch", "candidates", "horizon", "actions", "obs"))
    hidden, chunk, steps = [size["width"]] * size["depth"], h * a, size["flow_steps"]
    gamma, tau, lr = 0.99**h, 0.005, 3e-4
    key = jax.random.PRNGKey(0)
    flow = layers(key, [o + chunk + 1, *hidden, chunk])
    critic = layers(jax.random.fold_in(key, 1), [o + chunk, *hidden, 1], (size["networks"],))

    def velocity(params, obs, x, t):
        return mlp(params, jnp.concatenate([obs, x, jnp.broadcast_to(t, (*x.shape[:-1], 1))], -1))

    def values(params, obs, x):
        return mlp(params, jnp.concatenate([obs, x], -1)[None], norm=True)[..., 0]

    def loss(learned, target, data, key):
        flow, critic = learned
        obs, chunks, rewards, following, mask, valid = data
        x_0, t = jax.random.normal(key, chunks.shape), jax.random.uniform(jax.random.fold_in(key, 1), (b, 1))
        error = velocity(flow, obs, (1 - t) * x_0 + t * chunks, t) - (chunks - x_0)
        many = jnp.repeat(following, n, axis=0)
        x = jax.random.normal(jax.random.fold_in(key, 2), (b * n, chunk))
        for step in range(steps):
            x = x + velocity(flow, many, x, jnp.float32(step / steps)) / steps
        x = jax.lax.stop_gradient(jnp.clip(x, -3, 3))
        best = jax.lax.stop_gradient(values(critic, many, x).mean(0).reshape(b, n).argmax(-1))
        best = x.reshape(b, n, chunk)[jnp.arange(b), best]
        y = jax.lax.stop_gradient(rewards + gamma * mask * values(target, following, best).mean(0))
        return (error**2).mean() + (valid * ((values(critic, obs, chunks) - y) ** 2).sum(0)).mean()

    def update(state, data):
        learned, target, mean, square, count, key = state
        key, used = jax.random.split(key)
        gradient = jax.grad(loss)(learned, target, data, used)
        count = count + 1
        mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, gradient)
        square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, square, gradient)

        def adam(p, m, v):
            return p - lr * (m / (1 - 0.9**count)) / (jnp.sqrt(v / (1 - 0.999**count)) + 1e-8)

        learned = jax.tree.map(adam, learned, mean, square)
        target = jax.tree.map(lambda q, p: q + tau * (p - q), target, learned[1])
        return learned, target, mean, square, count, key

    learned = (flow, critic)
    zeros = jax.tree.map(jnp.zeros_like, learned)
    target = jax.tree.map(jnp.copy, critic)
    state = (learned, target, zeros, jax.tree.map(jnp.zeros_like, learned), jnp.float32(0), key)
    draw = [jax.random.normal(jax.random.fold_in(key, i), s) for i, s in enumerate([(b, o), (b, chunk), (b,), (b, o)])]
    data = (draw[0], draw[1], draw[2], draw[3], jnp.ones(b), jnp.ones(b))
    return state, data, jax.jit(update, donate_argnums=0)


def main() -> None:
    state, data, update = make(json.loads(sys.argv[1]))
    state = jax.block_until_ready(update(state, data))
    print("ready", jax.__version__, flush=True)
    for line in sys.stdin:
        began = time.process_time(), time.perf_counter()
        for _ in range(int(line)):
            state = update(state, data)
        jax.block_until_ready(state)
        print(time.process_time() - began[0], time.perf_counter() - began[1], flush=True)


if __name__ == "__main__":
    main()
