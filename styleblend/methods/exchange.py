from styleblend.settings import SITES
from styleblend.diffusion.controls import SwapKV, SwapQ
def exchange(blend, sites):
        both = set(blend.c2f_sites) & set(blend.f2c_sites)
        window = dict(window_steps=blend.window_steps)
        def q(s, a, b, r, **k): return SwapQ(sites=tuple(s), source=a, target=b, ratio=r, **k, **window)
        def kv(s, a, b, r, **k): return SwapKV(sites=tuple(s), source=a, target=b, ratio=r, **k, **window)
        swaps = [q(blend.c2f_sites, "coarse", "fine", blend.c2f_ratio),
                 kv(sorted(both), "fine", "coarse", blend.c2f_ratio),
                 kv((s for s in blend.f2c_sites if s not in both), "fine", "coarse", blend.f2c_ratio)]
        ratio, mid = 1.0, 6
        for site in [s for s in range(SITES) if s != mid] + [mid]:
            if site in blend.c2f_sites:
                ratio = blend.c2f_ratio
            elif site in blend.f2c_sites:
                ratio = blend.f2c_ratio
            if site in blend.cross_c2f_sites:
                swaps.append(q((site,), "coarse", "fine", ratio, kind="cross"))
            elif site in blend.cross_f2c_sites:
                swaps.append(q((site,), "fine", "coarse", ratio, kind="cross"))
        return tuple(s for s in swaps if s.sites)
