// In cuDNN's place: convolutions whose shapes fit together, whose types are in the table of cudnnConvolutionForward in
// NVIDIA's documentation, and whose tensors and work space lie within the card's memory.
#include <cudnn.h>
#include <algorithm>
#include <cstring>
#include "stand_in.h"

struct cudnnTensorStruct { cudnnDataType_t type; int count, size[8], stride[8]; };
struct cudnnFilterStruct { cudnnDataType_t type; cudnnTensorFormat_t format; int count, size[8]; };
struct cudnnConvolutionStruct { cudnnDataType_t compute; int count, padding[8], stride[8], dilation[8], groups; };

namespace {

size_t bytes_of(cudnnDataType_t type) {
    return type == CUDNN_DATA_DOUBLE ? 8 : type == CUDNN_DATA_FLOAT ? 4
         : type == CUDNN_DATA_HALF || type == CUDNN_DATA_BFLOAT16 ? 2 : 0;
}

size_t bytes_of(cudnnTensorDescriptor_t t) {
    size_t last = 0;
    for (int i = 0; i < t->count; i++) last += (size_t)(t->size[i] - 1) * t->stride[i];
    return (last + 1) * bytes_of(t->type);
}

size_t bytes_of(cudnnFilterDescriptor_t w) {
    size_t numbers = bytes_of(w->type);
    for (int i = 0; i < w->count; i++) numbers *= w->size[i];
    return numbers;
}

bool go_together(cudnnDataType_t type, cudnnDataType_t compute) {
    return type == CUDNN_DATA_BFLOAT16 ? compute == CUDNN_DATA_FLOAT
         : type == CUDNN_DATA_HALF ? compute == CUDNN_DATA_FLOAT || compute == CUDNN_DATA_HALF
         : bytes_of(type) && compute == type;
}

// A convolution of x with w to y, in whichever direction.
struct Case {
    const char* call;
    cudnnTensorDescriptor_t x;
    cudnnFilterDescriptor_t w;
    cudnnTensorDescriptor_t y;
    cudnnConvolutionDescriptor_t how;

    bool is_right() const {
        if (x->type != w->type || x->type != y->type || !go_together(x->type, how->compute)) {
            stand_in_wrong("%s: types %d, %d -> %d, computed as %d", call, x->type, w->type, y->type, how->compute);
            return false;
        }
        bool fits = x->count == y->count && x->count == w->count && x->size[0] == y->size[0] &&
                    w->size[0] == y->size[1] && w->size[1] * how->groups == x->size[1];
        for (int i = 2; fits && i < x->count; i++) {
            int covered = how->dilation[i - 2] * (w->size[i] - 1) + 1;
            fits = y->size[i] == (x->size[i] + 2 * how->padding[i - 2] - covered) / how->stride[i - 2] + 1;
        }
        if (!fits)
            stand_in_wrong("%s: x (%d, %d, %d, %d), w (%d, %d, %d, %d) and y (%d, %d, %d, %d) do not fit", call,
                           x->size[0], x->size[1], x->size[2], x->size[3], w->size[0], w->size[1], w->size[2],
                           w->size[3], y->size[0], y->size[1], y->size[2], y->size[3]);
        return fits;
    }

    // The way to compute it that unfolds x needs this much room; the others of the stand-in need none.
    size_t unfolded() const {
        size_t numbers = w->size[1];
        for (int i = 2; i < w->count; i++) numbers *= (size_t)w->size[i] * y->size[i];
        return numbers * bytes_of(x->type);
    }

    cudnnStatus_t run(const void* of_x, const void* of_w, const void* of_y, const void* room, size_t bytes,
                      size_t needed) const {
        stand_in_count("call", call);
        if (bytes < needed) stand_in_wrong("%s: a work space of %zu bytes, and %zu are needed", call, bytes, needed);
        bool right = bytes >= needed && is_right() && is_of_card(call, "x", of_x, bytes_of(x)) &&
                     is_of_card(call, "w", of_w, bytes_of(w)) && is_of_card(call, "y", of_y, bytes_of(y)) &&
                     (!needed || is_of_card(call, "the work space", room, bytes));
        return right ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_BAD_PARAM;
    }

    // Answers which algorithms there are: the one that unfolds where there is room, and the one that needs none.
    template <class Perf, class Algorithm>
    cudnnStatus_t answer(Algorithm unfolding, Algorithm plain, size_t room, int wanted, int* found, Perf* to) const {
        stand_in_count("call", call);
        if (!is_right()) return CUDNN_STATUS_BAD_PARAM;
        *found = 0;
        for (Algorithm one : {unfolding, plain}) {
            size_t needed = one == unfolding ? unfolded() : 0;
            if (*found == wanted || needed > room) continue;
            Perf& perf = to[(*found)++];
            std::memset(&perf, 0, sizeof perf);
            perf.algo = one; perf.status = CUDNN_STATUS_SUCCESS; perf.memory = needed; perf.time = 1;
        }
        return CUDNN_STATUS_SUCCESS;
    }

    template <class Algorithm>
    cudnnStatus_t room(Algorithm one, Algorithm unfolding, Algorithm plain, size_t* bytes) const {
        *bytes = one == unfolding ? unfolded() : 0;
        if (one != unfolding && one != plain) return CUDNN_STATUS_NOT_SUPPORTED;
        return is_right() ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_BAD_PARAM;
    }
};

template <class Struct> cudnnStatus_t make(Struct** to) { *to = new Struct(); return CUDNN_STATUS_SUCCESS; }
template <class Struct> cudnnStatus_t end(Struct* it) { delete it; return CUDNN_STATUS_SUCCESS; }

constexpr size_t ANY = ~(size_t)0;
const auto GEMM = CUDNN_CONVOLUTION_FWD_ALGO_GEMM, IMPLICIT = CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM;
const auto DATA_1 = CUDNN_CONVOLUTION_BWD_DATA_ALGO_1, DATA_0 = CUDNN_CONVOLUTION_BWD_DATA_ALGO_0;
const auto FILTER_1 = CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1, FILTER_0 = CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0;

}  // namespace

extern "C" {

cudnnStatus_t cudnnCreate(cudnnHandle_t* to) { static char it; *to = (cudnnHandle_t)&it; return CUDNN_STATUS_SUCCESS; }
const char* cudnnGetErrorString(cudnnStatus_t status) { return status ? "refused by the stand-in" : "no error"; }

cudnnStatus_t cudnnCreateTensorDescriptor(cudnnTensorDescriptor_t* to) { return make(to); }
cudnnStatus_t cudnnDestroyTensorDescriptor(cudnnTensorDescriptor_t it) { return end(it); }
cudnnStatus_t cudnnCreateFilterDescriptor(cudnnFilterDescriptor_t* to) { return make(to); }
cudnnStatus_t cudnnDestroyFilterDescriptor(cudnnFilterDescriptor_t it) { return end(it); }
cudnnStatus_t cudnnCreateConvolutionDescriptor(cudnnConvolutionDescriptor_t* to) { return make(to); }
cudnnStatus_t cudnnDestroyConvolutionDescriptor(cudnnConvolutionDescriptor_t it) { return end(it); }

cudnnStatus_t cudnnSetTensorNdDescriptor(cudnnTensorDescriptor_t t, cudnnDataType_t type, int count, const int* size,
                                         const int* stride) {
    t->type = type; t->count = count;
    std::copy(size, size + count, t->size);
    std::copy(stride, stride + count, t->stride);
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetFilterNdDescriptor(cudnnFilterDescriptor_t w, cudnnDataType_t type, cudnnTensorFormat_t format,
                                         int count, const int* size) {
    w->type = type; w->format = format; w->count = count;
    std::copy(size, size + count, w->size);
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetConvolutionNdDescriptor(cudnnConvolutionDescriptor_t how, int count, const int* padding,
                                              const int* stride, const int* dilation, cudnnConvolutionMode_t,
                                              cudnnDataType_t compute) {
    how->compute = compute; how->count = count; how->groups = 1;
    std::copy(padding, padding + count, how->padding);
    std::copy(stride, stride + count, how->stride);
    std::copy(dilation, dilation + count, how->dilation);
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetConvolutionGroupCount(cudnnConvolutionDescriptor_t how, int groups) {
    how->groups = groups;
    return CUDNN_STATUS_SUCCESS;
}

// ---------------------------------------------------------------- x, w -> y

cudnnStatus_t cudnnGetConvolutionForwardWorkspaceSize(
        cudnnHandle_t, cudnnTensorDescriptor_t x, cudnnFilterDescriptor_t w, cudnnConvolutionDescriptor_t how,
        cudnnTensorDescriptor_t y, cudnnConvolutionFwdAlgo_t algo, size_t* bytes) {
    return Case{"cudnnGetConvolutionForwardWorkspaceSize", x, w, y, how}.room(algo, GEMM, IMPLICIT, bytes);
}
cudnnStatus_t cudnnFindConvolutionForwardAlgorithmEx(
        cudnnHandle_t, cudnnTensorDescriptor_t x, const void* of_x, cudnnFilterDescriptor_t w, const void* of_w,
        cudnnConvolutionDescriptor_t how, cudnnTensorDescriptor_t y, void* of_y, int wanted, int* found,
        cudnnConvolutionFwdAlgoPerf_t* to, void* room, size_t bytes) {
    Case its{"cudnnFindConvolutionForwardAlgorithmEx", x, w, y, how};
    cudnnStatus_t status = its.run(of_x, of_w, of_y, room, bytes, 0);
    return status ? status : its.answer(GEMM, IMPLICIT, bytes, wanted, found, to);
}
cudnnStatus_t cudnnGetConvolutionForwardAlgorithm_v7(
        cudnnHandle_t, cudnnTensorDescriptor_t x, cudnnFilterDescriptor_t w, cudnnConvolutionDescriptor_t how,
        cudnnTensorDescriptor_t y, int wanted, int* found, cudnnConvolutionFwdAlgoPerf_t* to) {
    return Case{"cudnnGetConvolutionForwardAlgorithm_v7", x, w, y, how}.answer(GEMM, IMPLICIT, ANY, wanted, found, to);
}
cudnnStatus_t cudnnConvolutionForward(
        cudnnHandle_t, const void*, cudnnTensorDescriptor_t x, const void* of_x, cudnnFilterDescriptor_t w,
        const void* of_w, cudnnConvolutionDescriptor_t how, cudnnConvolutionFwdAlgo_t algo, void* room, size_t bytes,
        const void*, cudnnTensorDescriptor_t y, void* of_y) {
    Case its{"cudnnConvolutionForward", x, w, y, how};
    return its.run(of_x, of_w, of_y, room, bytes, algo == GEMM ? its.unfolded() : 0);
}

// ---------------------------------------------------------------- w, y -> x

cudnnStatus_t cudnnGetConvolutionBackwardDataWorkspaceSize(
        cudnnHandle_t, cudnnFilterDescriptor_t w, cudnnTensorDescriptor_t y, cudnnConvolutionDescriptor_t how,
        cudnnTensorDescriptor_t x, cudnnConvolutionBwdDataAlgo_t algo, size_t* bytes) {
    return Case{"cudnnGetConvolutionBackwardDataWorkspaceSize", x, w, y, how}.room(algo, DATA_1, DATA_0, bytes);
}
cudnnStatus_t cudnnFindConvolutionBackwardDataAlgorithmEx(
        cudnnHandle_t, cudnnFilterDescriptor_t w, const void* of_w, cudnnTensorDescriptor_t y, const void* of_y,
        cudnnConvolutionDescriptor_t how, cudnnTensorDescriptor_t x, void* of_x, int wanted, int* found,
        cudnnConvolutionBwdDataAlgoPerf_t* to, void* room, size_t bytes) {
    Case its{"cudnnFindConvolutionBackwardDataAlgorithmEx", x, w, y, how};
    cudnnStatus_t status = its.run(of_x, of_w, of_y, room, bytes, 0);
    return status ? status : its.answer(DATA_1, DATA_0, bytes, wanted, found, to);
}
cudnnStatus_t cudnnGetConvolutionBackwardDataAlgorithm_v7(
        cudnnHandle_t, cudnnFilterDescriptor_t w, cudnnTensorDescriptor_t y, cudnnConvolutionDescriptor_t how,
        cudnnTensorDescriptor_t x, int wanted, int* found, cudnnConvolutionBwdDataAlgoPerf_t* to) {
    return Case{"cudnnGetConvolutionBackwardDataAlgorithm_v7", x, w, y, how}.answer(DATA_1, DATA_0, ANY, wanted, found,
                                                                                    to);
}
cudnnStatus_t cudnnConvolutionBackwardData(
        cudnnHandle_t, const void*, cudnnFilterDescriptor_t w, const void* of_w, cudnnTensorDescriptor_t y,
        const void* of_y, cudnnConvolutionDescriptor_t how, cudnnConvolutionBwdDataAlgo_t algo, void* room,
        size_t bytes, const void*, cudnnTensorDescriptor_t x, void* of_x) {
    Case its{"cudnnConvolutionBackwardData", x, w, y, how};
    return its.run(of_x, of_w, of_y, room, bytes, algo == DATA_1 ? its.unfolded() : 0);
}

// ---------------------------------------------------------------- x, y -> w

cudnnStatus_t cudnnGetConvolutionBackwardFilterWorkspaceSize(
        cudnnHandle_t, cudnnTensorDescriptor_t x, cudnnTensorDescriptor_t y, cudnnConvolutionDescriptor_t how,
        cudnnFilterDescriptor_t w, cudnnConvolutionBwdFilterAlgo_t algo, size_t* bytes) {
    return Case{"cudnnGetConvolutionBackwardFilterWorkspaceSize", x, w, y, how}.room(algo, FILTER_1, FILTER_0, bytes);
}
cudnnStatus_t cudnnFindConvolutionBackwardFilterAlgorithmEx(
        cudnnHandle_t, cudnnTensorDescriptor_t x, const void* of_x, cudnnTensorDescriptor_t y, const void* of_y,
        cudnnConvolutionDescriptor_t how, cudnnFilterDescriptor_t w, void* of_w, int wanted, int* found,
        cudnnConvolutionBwdFilterAlgoPerf_t* to, void* room, size_t bytes) {
    Case its{"cudnnFindConvolutionBackwardFilterAlgorithmEx", x, w, y, how};
    cudnnStatus_t status = its.run(of_x, of_w, of_y, room, bytes, 0);
    return status ? status : its.answer(FILTER_1, FILTER_0, bytes, wanted, found, to);
}
cudnnStatus_t cudnnGetConvolutionBackwardFilterAlgorithm_v7(
        cudnnHandle_t, cudnnTensorDescriptor_t x, cudnnTensorDescriptor_t y, cudnnConvolutionDescriptor_t how,
        cudnnFilterDescriptor_t w, int wanted, int* found, cudnnConvolutionBwdFilterAlgoPerf_t* to) {
    return Case{"cudnnGetConvolutionBackwardFilterAlgorithm_v7", x, w, y, how}.answer(FILTER_1, FILTER_0, ANY, wanted,
                                                                                      found, to);
}
cudnnStatus_t cudnnConvolutionBackwardFilter(
        cudnnHandle_t, const void*, cudnnTensorDescriptor_t x, const void* of_x, cudnnTensorDescriptor_t y,
        const void* of_y, cudnnConvolutionDescriptor_t how, cudnnConvolutionBwdFilterAlgo_t algo, void* room,
        size_t bytes, const void*, cudnnFilterDescriptor_t w, void* of_w) {
    Case its{"cudnnConvolutionBackwardFilter", x, w, y, how};
    return its.run(of_x, of_w, of_y, room, bytes, algo == FILTER_1 ? its.unfolded() : 0);
}

}  // extern "C"
