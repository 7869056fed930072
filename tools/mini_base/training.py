"""What every training of the mini base shares: options, device, precision, step, clock, state on disk, history."""
import argparse, collections, json, math, pathlib, signal, statistics, time

import torch

device = "cuda" if torch.cuda.is_available() else "cpu"


def options(doc, minutes, batch, lr):
    """A parser with the options that every training has, with these defaults."""
    ap = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", type=pathlib.Path, required=True)
    ap.add_argument("--minutes", type=float, default=minutes)
    ap.add_argument("--batch", type=int, default=batch)
    ap.add_argument("--lr", type=float, default=lr)
    ap.add_argument("--log", type=int, default=50)
    ap.add_argument("--threads", type=int, default=0,
                    help="0 = PyTorch's choice; 1 when other jobs share the cores (threads that spin cost ten-fold)")
    return ap


def saved_often(ap, ema):
    """The options of a training that `run` goes through."""
    ap.add_argument("--ema", type=float, default=ema, help="steps that the mean of the weights looks back at most")
    ap.add_argument("--save", type=float, default=10, help="minutes between two saved states")


def parsed(ap):
    """What the command line says; PyTorch takes as many threads as it asks for."""
    args = ap.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    return args


def amp():
    """Products in bfloat16, but on a CPU without such instructions: there they take ten times as long as in float32."""
    return torch.autocast(device, dtype=torch.bfloat16,
                          enabled=device != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported())


def to_tensor(pictures):
    """uint8 (N, side, side, 3) -> float (N, 3, side, side) in -1..1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def learn(opt, loss, lr, clipped):
    """One step of the optimiser; the gradients of the parameters `clipped` are together no longer than 1."""
    for group in opt.param_groups:
        group["lr"] = lr
    opt.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(clipped, 1.0)
    opt.step()


@torch.no_grad()
def follow(mean, model, step, longest):
    """One step of the running mean of a model's weights, over the last `longest` steps at most."""
    share = max(1 / longest, 1 / (1 + step / 10))
    torch._foreach_lerp_(list(mean.parameters()), list(model.parameters()), share)


def run(args, nets, stage, loss_of_a_batch, more=""):
    """Step after step until the time is over, with the state saved on the way and the result noted, `more` behind it.

    `nets` has `step`, `update(loss, lr, longest)` and `save()`.
    """
    clock, first = Clock(args.minutes, args.lr, nets.step), nets.step
    recent, saved, begun = collections.deque(maxlen=200), time.time(), time.time()
    while not clock.done():
        loss = loss_of_a_batch()
        nets.update(loss, clock.lr(nets.step), args.ema)
        recent.append(loss.item())
        if nets.step % args.log == 0:
            last = list(recent)[-args.log:]
            print(f"{stage} step {nets.step} loss {statistics.mean(last):.4f} "
                  f"{len(last) * args.batch / (time.time() - begun):.1f} samples/s lr {clock.lr(nets.step):.1e}",
                  flush=True)
            begun = time.time()
        if time.time() - saved > args.save * 60:
            nets.save()
            saved = time.time()
    nets.save()
    note(args, stage, f"loss {statistics.mean(recent):.3f}{more}" if recent else "no step", steps=nets.step - first,
         batch=args.batch, minutes=clock.minutes())


def checkpoint(path, **state):
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def note(args, stage, result, **numbers):
    """One line of the training's history, for the model card (card.py)."""
    path = args.out / "training.json"
    history = json.loads(path.read_text()) if path.exists() else []
    name = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    history.append(dict(dict(stage=stage, steps="", batch="", minutes=""), **numbers, device=name, result=result))
    path.write_text(json.dumps(history, indent=1) + "\n")


class Clock:
    """Learning rate by elapsed share of the time: flat, then cosine to zero in the last 40 %; warm-up over 100 steps.

    Every run warms up, also one that goes on: at once at its peak it can diverge. SIGTERM and Ctrl-C end the run as the
    end of its time does: after the step in hand, with its state saved.
    """

    def __init__(self, minutes, peak, first):
        self.end, self.start, self.peak, self.first, self.stopped = minutes * 60, time.time(), peak, first, False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def _stop(self, *_):
        self.stopped = True

    def lr(self, step):
        share = min(1.0, (time.time() - self.start) / self.end)
        decay = 1.0 if share < 0.6 else 0.5 * (1 + math.cos(math.pi * (share - 0.6) / 0.4))
        return self.peak * min(1.0, (step - self.first + 1) / 100) * decay

    def minutes(self):
        return round((time.time() - self.start) / 60, 1)

    def done(self):
        return self.stopped or time.time() - self.start > self.end
