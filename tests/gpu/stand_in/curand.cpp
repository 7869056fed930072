// In cuRAND's place: random numbers are zeros. Normal ones come in pairs, so their number must be even.
#include <curand.h>
#include <cstring>
#include "stand_in.h"

static curandStatus_t generate(const char* call, void* to, size_t bytes, bool in_pairs, size_t numbers) {
    stand_in_count("call", call);
    if (in_pairs && numbers % 2) {
        stand_in_wrong("%s: %zu numbers, which is odd", call, numbers);
        return CURAND_STATUS_LENGTH_NOT_MULTIPLE;
    }
    if (!is_of_card(call, "the result", to, bytes)) return CURAND_STATUS_LAUNCH_FAILURE;
    std::memset(to, 0, bytes);
    return CURAND_STATUS_SUCCESS;
}

extern "C" {

curandStatus_t curandCreateGenerator(curandGenerator_t* to, curandRngType_t) {
    static char generator;
    *to = (curandGenerator_t)&generator;
    return CURAND_STATUS_SUCCESS;
}
curandStatus_t curandGenerateUniform(curandGenerator_t, float* to, size_t n) {
    return generate("curandGenerateUniform", to, 4 * n, false, n);
}
curandStatus_t curandGenerateUniformDouble(curandGenerator_t, double* to, size_t n) {
    return generate("curandGenerateUniformDouble", to, 8 * n, false, n);
}
curandStatus_t curandGenerateNormal(curandGenerator_t, float* to, size_t n, float, float) {
    return generate("curandGenerateNormal", to, 4 * n, true, n);
}
curandStatus_t curandGenerateNormalDouble(curandGenerator_t, double* to, size_t n, double, double) {
    return generate("curandGenerateNormalDouble", to, 8 * n, true, n);
}

}  // extern "C"
