"""One self-attention, forward or with its gradient.

`python -m benchmarks.attention --latent 64 --heads 5 --peer torch`
"""
from benchmarks.harness import arguments, main
from benchmarks.worker import numbers


def build(args):
    from styleblend.kernels import attention
    from styleblend.machine.precision import cast
    from styleblend.machine.runtime import jt
    q, k, v, weight = (cast(jt.array(numbers(name, (args.batch, args.latent ** 2, args.heads * 64))), args.dtype)
                       for name in ("q", "k", "v", "weight"))

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
    main(build, parser, "benchmarks.attention",
         lambda a: 2 * 64 * a.heads * a.batch * a.latent ** 4 * (7 if a.gradient else 2))
