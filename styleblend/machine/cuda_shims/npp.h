// In the place of NPP's header, which no wheel that is needed here brings: Jittor 1.3.11 reads these limits of it, and
// nothing else.
#pragma once
#define NPP_MIN_32S (-2147483647 - 1)
#define NPP_MAX_32S (2147483647)
#define NPP_MIN_32U (0)
#define NPP_MAX_32U (4294967295U)
#define NPP_MIN_64S (-9223372036854775807LL - 1)
#define NPP_MAX_64S (9223372036854775807LL)
#define NPP_MIN_64U (0)
#define NPP_MAX_64U (18446744073709551615ULL)
