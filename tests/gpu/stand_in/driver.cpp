// In the driver's place (libcuda), as far as it is asked which cards there are; settings as in `cudart.cpp`.
#include <cstdlib>
#include <cstring>

static long setting(const char* name, long otherwise) {
    const char* given = std::getenv(name);
    return given && *given ? std::atol(given) : otherwise;
}

extern "C" {

int cuInit(unsigned) { return 0; }
int cuDriverGetVersion(int* version) { *version = 13000; return 0; }
int cuDeviceGetCount(int* count) { *count = (int)setting("STAND_IN_CARDS", 1); return 0; }
int cuDeviceGet(int* device, int number) { *device = number; return 0; }
int cuDeviceGetName(char* name, int size, int) { std::strncpy(name, "A stand-in for a card", size); return 0; }
int cuDeviceGetAttribute(int* value, int what, int) {  // 75, 76: the two parts of the compute capability
    long capability = setting("STAND_IN_CAPABILITY", 90);
    *value = (int)(what == 75 ? capability / 10 : what == 76 ? capability % 10 : 0);
    return 0;
}
int cuDeviceTotalMem_v2(size_t* bytes, int) { *bytes = (size_t)setting("STAND_IN_MEMORY", 80L << 30); return 0; }

}  // extern "C"
