/* A stand-in for the driver's library: it loads everything, launches nothing, and keeps what it was given. */
#include <stdint.h>
#include <string.h>

#define STUB(name) int name() { return 0; }
STUB(cuCtxSetCurrent) STUB(cuCtxGetLimit) STUB(cuCtxSetLimit) STUB(cuDeviceGet) STUB(cuDevicePrimaryCtxRetain)
STUB(cuFuncSetAttribute) STUB(cuFuncSetCacheConfig) STUB(cuGetErrorString) STUB(cuModuleLoadData)
STUB(cuOccupancyMaxActiveClusters) STUB(cuTensorMapEncodeTiled) STUB(cuTensorMapEncodeIm2col)

/* Asked where a pointer is on the device. */
int cuPointerGetAttribute(uint64_t *value, int attribute, uint64_t pointer) { *value = pointer; return 0; }
int cuCtxGetCurrent(void **context) { *context = (void *)1; return 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuModuleGetFunction(void **function, void *module, const char *name) { *function = (void *)2; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = 1 << 16; return 0; }
int cuFuncGetAttribute(int *value, int attribute, void *function) { *value = 1024; return 0; }

int stub_launches, stub_programs, stub_count;
uint64_t stub_given[64];

/* CUlaunchConfig begins with the grid's three numbers. */
int cuLaunchKernelEx(const unsigned *config, void *function, void **given, void **extra) {
    stub_launches++;
    stub_programs = config[0] * config[1] * config[2];
    for (int k = 0; k < stub_count; k++) memcpy(&stub_given[k], given[k], 8);
    return 0;
}
