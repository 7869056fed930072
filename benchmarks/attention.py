"""One self-attention, forward or with its gradient: `python -m benchmarks.attention --latent 64 --heads 5 --peer torch`."""
import numpy as np

from benchmarks.harness import arguments, main


def build(args):
    from styleblend.kernels import attention
    from styleblend.runtime import jt
    rng, tokens = np.random.default_rng(0), args.latent ** 2
    q, k, v, weight = (jt.array(rng.standard_normal((args.batch, tokens, args.heads * 64)).astype(np.float32)) for _ in range(4))

    def run():
        out = attention(q, k, v, args.heads)
        jt.sync(jt.grad((out * weight).sum(), [q, k, v]) if args.gradient else [out])
        jt.sync_all(True)

    return run


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--heads", type=int, default=1, help="heads of 64")
    parser.add_argument("--gradient", action="store_true", help="with the backward pass")
    # forward: two products; backward: the scores again and four more
    main(build, parser, "benchmarks.attention", lambda a: 2 * 64 * a.heads * a.batch * a.latent ** 4 * (7 if a.gradient else 2))
