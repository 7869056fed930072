// Stands before the header of cuDNN 9, which has no longer the first interface of recurrent networks. Jittor 1.3.11
// compiles calls of it into every program; nothing here makes one, and who does is told that it is not supported.
#pragma once
#include "@THE HEADER ITSELF@"
#if defined(__cplusplus) && CUDNN_MAJOR >= 9
#define GONE(name) \
    template <class... Anything> static inline cudnnStatus_t name(Anything...) { return CUDNN_STATUS_NOT_SUPPORTED; }
GONE(cudnnGetRNNLinLayerBiasParams)
GONE(cudnnGetRNNLinLayerMatrixParams)
GONE(cudnnGetRNNParamsSize)
GONE(cudnnGetRNNTrainingReserveSize)
GONE(cudnnGetRNNWorkspaceSize)
GONE(cudnnRNNBackwardData)
GONE(cudnnRNNBackwardWeights)
GONE(cudnnRNNForwardInference)
GONE(cudnnRNNForwardTraining)
GONE(cudnnSetRNNDescriptor_v6)
#undef GONE
#endif
