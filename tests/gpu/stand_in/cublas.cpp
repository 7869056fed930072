// In cuBLAS's place: products whose factors and result lie within the card's memory, of types that go together.
#include <cublas_v2.h>
#include <cstdint>
#include "stand_in.h"

namespace {

size_t bytes_of(cudaDataType type) {
    return type == CUDA_R_64F ? 8 : type == CUDA_R_32F ? 4 : type == CUDA_R_16F || type == CUDA_R_16BF ? 2 : 0;
}

// The table of cublasGemmEx in NVIDIA's documentation, as far as these types go.
bool go_together(cudaDataType a, cudaDataType b, cudaDataType c, cublasComputeType_t compute) {
    if (a != b || !bytes_of(a)) return false;
    switch (compute) {
        case CUBLAS_COMPUTE_16F: return a == CUDA_R_16F && c == CUDA_R_16F;
        case CUBLAS_COMPUTE_32F: return a != CUDA_R_64F && (c == a || c == CUDA_R_32F);
        case CUBLAS_COMPUTE_32F_FAST_16F: case CUBLAS_COMPUTE_32F_FAST_16BF: case CUBLAS_COMPUTE_32F_FAST_TF32:
            return a == CUDA_R_32F && c == CUDA_R_32F;
        case CUBLAS_COMPUTE_64F: return a == CUDA_R_64F && c == CUDA_R_64F;
        default: return false;
    }
}

struct Matrix { const char* name; const void* data; cudaDataType type; int64_t rows, columns, pitch, stride; };

bool is_right(const char* call, const Matrix& m, int64_t count) {
    if (m.rows < 1 || m.columns < 1 || m.pitch < m.rows) {
        stand_in_wrong("%s: %s is %ld x %ld with a leading dimension of %ld", call, m.name, (long)m.rows,
                       (long)m.columns, (long)m.pitch);
        return false;
    }
    int64_t numbers = (m.columns - 1) * m.pitch + m.rows + (count - 1) * m.stride;
    return is_of_card(call, m.name, m.data, numbers * bytes_of(m.type));
}

cublasStatus_t product(const char* call, Matrix a, Matrix b, Matrix c, int count, cublasComputeType_t compute) {
    stand_in_count("call", call);
    if (count < 1 || !go_together(a.type, b.type, c.type, compute)) {
        stand_in_wrong("%s: %d products of types %d x %d -> %d, computed as %d", call, count, a.type, b.type, c.type,
                       compute);
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    bool right = is_right(call, a, count) && is_right(call, b, count) && is_right(call, c, count);
    return right ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

Matrix factor(const char* name, cublasOperation_t turned, int rows, int columns, const void* data, cudaDataType type,
              int pitch, long long stride) {
    return turned == CUBLAS_OP_N ? Matrix{name, data, type, rows, columns, pitch, stride}
                                 : Matrix{name, data, type, columns, rows, pitch, stride};
}

}  // namespace

extern "C" {

cublasStatus_t cublasCreate_v2(cublasHandle_t* to) {
    static char handle;
    *to = (cublasHandle_t)&handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGemmStridedBatchedEx(
        cublasHandle_t, cublasOperation_t turn_a, cublasOperation_t turn_b, int m, int n, int k, const void*,
        const void* a, cudaDataType type_a, int lda, long long stride_a, const void* b, cudaDataType type_b, int ldb,
        long long stride_b, const void*, void* c, cudaDataType type_c, int ldc, long long stride_c, int count,
        cublasComputeType_t compute, cublasGemmAlgo_t) {
    return product("cublasGemmStridedBatchedEx", factor("a", turn_a, m, k, a, type_a, lda, stride_a),
                   factor("b", turn_b, k, n, b, type_b, ldb, stride_b), {"c", c, type_c, m, n, ldc, stride_c}, count,
                   compute);
}

cublasStatus_t cublasGemmEx(
        cublasHandle_t, cublasOperation_t turn_a, cublasOperation_t turn_b, int m, int n, int k, const void*,
        const void* a, cudaDataType type_a, int lda, const void* b, cudaDataType type_b, int ldb, const void*, void* c,
        cudaDataType type_c, int ldc, cublasComputeType_t compute, cublasGemmAlgo_t) {
    return product("cublasGemmEx", factor("a", turn_a, m, k, a, type_a, lda, 0),
                   factor("b", turn_b, k, n, b, type_b, ldb, 0), {"c", c, type_c, m, n, ldc, 0}, 1, compute);
}

cublasStatus_t cublasSgemm_v2(cublasHandle_t, cublasOperation_t turn_a, cublasOperation_t turn_b, int m, int n, int k,
                              const float*, const float* a, int lda, const float* b, int ldb, const float*, float* c,
                              int ldc) {
    return product("cublasSgemm", factor("a", turn_a, m, k, a, CUDA_R_32F, lda, 0),
                   factor("b", turn_b, k, n, b, CUDA_R_32F, ldb, 0), {"c", c, CUDA_R_32F, m, n, ldc, 0}, 1,
                   CUBLAS_COMPUTE_32F);
}

}  // extern "C"
