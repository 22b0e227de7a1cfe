/* A simulated NVML: enough of libnvidia-ml.so.1 for the real nvidia-smi to print `-q -x`.
 *
 * The file that SIMULATED_NVML names is the hardware, a line per item:
 *
 *   init CODE                                   what nvmlInit returns
 *   gpu BUS_ID UUID SERIAL HANDLE_CODE CODE     a GPU; HANDLE_CODE is what the look-up of its handle
 *                                               returns, CODE what every question about it returns;
 *                                               its BUS_ID is known all the same, unless it is "?"
 *
 * Codes are those of nvmlReturn_t: 0 is success, 9 driver not loaded, 15 GPU is lost. The texts for
 * them are in nvidia-smi, not here. Functions that are not defined here return "not supported", which
 * nvidia-smi prints as N/A: real_smi.py writes them into stubs.h, from the names in nvidia-smi.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3, TIMEOUT = 10, NOT_FOUND = 6, UNKNOWN = 999 };
enum { ARCHITECTURE_HOPPER = 9, BRAND_NVIDIA = 14, UNCORRECTED = 1, DRAM = 2 };

typedef struct {
    char bus_id[32], uuid[64], serial[32];
    int handle_code, code;
} gpu_t;

typedef struct {
    char legacy_bus_id[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
} pci_t;

typedef struct {
    unsigned id, scope;
    int64_t time, latency;
    int type, code;
    int64_t value;
} field_t;

static gpu_t gpus[64];
static unsigned count;

int nvmlInitWithFlags(unsigned flags)
{
    const char *path = getenv("SIMULATED_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[256];
    int code = file ? SUCCESS : UNKNOWN;
    count = 0;
    while (file && fgets(line, sizeof line, file)) {
        gpu_t *gpu = gpus + count;
        sscanf(line, "init %d", &code);
        if (sscanf(line, "gpu %31s %63s %31s %d %d", gpu->bus_id, gpu->uuid, gpu->serial,
                   &gpu->handle_code, &gpu->code) == 5 && count < 63)
            count++;
    }
    if (file)
        fclose(file);
    return code;
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return SUCCESS; }

static int text(char *target, unsigned size, const char *value)
{
    snprintf(target, size, "%s", value);
    return SUCCESS;
}

static int number(unsigned *target, unsigned value)
{
    *target = value;
    return SUCCESS;
}

int nvmlSystemGetDriverVersion(char *to, unsigned size) { return text(to, size, "535.0"); }
int nvmlSystemGetNVMLVersion(char *to, unsigned size) { return text(to, size, "12.535.0"); }
int nvmlSystemGetCudaDriverVersion_v2(unsigned *to) { return number(to, 12020); }
int nvmlDeviceGetCount_v2(unsigned *to) { return number(to, count); }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, gpu_t **to)
{
    if (index >= count)
        return NOT_FOUND;
    *to = gpus + index;
    return gpus[index].handle_code;
}

/* Questions about a GPU: each answers with the GPU's code if there is one. */
#define ASK(function, type, answer) \
    int function(gpu_t *gpu, type *to, unsigned size) { return gpu->code ? gpu->code : (answer); }

ASK(nvmlDeviceGetName, char, text(to, size, "NVIDIA H100 80GB HBM3"))
ASK(nvmlDeviceGetUUID, char, text(to, size, gpu->uuid))
ASK(nvmlDeviceGetSerial, char, text(to, size, gpu->serial))
ASK(nvmlDeviceGetVbiosVersion, char, text(to, size, "96.00.B1.00.01"))
ASK(nvmlDeviceGetBoardPartNumber, char, text(to, size, "692-2G520-0210-001"))
ASK(nvmlDeviceGetArchitecture, unsigned, number(to, ARCHITECTURE_HOPPER))
ASK(nvmlDeviceGetBrand, unsigned, number(to, BRAND_NVIDIA))
ASK(nvmlDeviceGetIndex, unsigned, number(to, gpu - gpus))
ASK(nvmlDeviceGetMinorNumber, unsigned, number(to, gpu - gpus))
ASK(nvmlDeviceGetModuleId, unsigned, number(to, gpu - gpus + 1))
ASK(nvmlDeviceGetVirtualizationMode, unsigned, number(to, 0))

int nvmlDeviceGetMigMode(gpu_t *gpu, unsigned *current, unsigned *pending)
{
    *current = *pending = 0;
    return gpu->code;
}

int nvmlDeviceGetEccMode(gpu_t *gpu, unsigned *current, unsigned *pending)
{
    *current = *pending = 1;
    return gpu->code;
}

int nvmlDeviceGetMemoryErrorCounter(gpu_t *gpu, int type, int counter, int location, uint64_t *to)
{
    *to = type == UNCORRECTED && location == DRAM ? 2 : 0;
    return gpu->code;
}

int nvmlDeviceGetRemappedRows(gpu_t *gpu, unsigned *corrected, unsigned *uncorrected,
                              unsigned *pending, unsigned *failed)
{
    *corrected = *uncorrected = *failed = 0;
    *pending = 1;
    return gpu->code;
}

int nvmlDeviceGetPciInfo_v3(gpu_t *gpu, pci_t *to)
{
    if (*gpu->bus_id == '?')
        return gpu->code;
    memset(to, 0, sizeof *to);
    sscanf(gpu->bus_id, "%x:%x:%x", &to->domain, &to->bus, &to->device);
    to->device_id = 0x233010de;
    text(to->legacy_bus_id, sizeof to->legacy_bus_id, gpu->bus_id + 4);
    return text(to->bus_id, sizeof to->bus_id, gpu->bus_id);
}

int nvmlDeviceGetFieldValues(gpu_t *gpu, int size, field_t *fields)
{
    for (field_t *field = fields; field < fields + size; field++)
        field->code = gpu->code ? gpu->code : NOT_SUPPORTED;
    return SUCCESS;
}

int nvmlEventSetCreate(void **set) { return *set = gpus, SUCCESS; }
int nvmlEventSetFree(void *set) { return SUCCESS; }
int nvmlEventSetWait_v2(void *set, void *event, unsigned milliseconds) { return TIMEOUT; }

/* nvidia-smi also calls functions by their place in a table. Its first member is the size of the
 * table in bytes; member 81 looks up a handle, 213 to 215 list processes. */
static int by_place(unsigned place, uintptr_t first, void *second)
{
    int about_gpu = first >= (uintptr_t)gpus && first < (uintptr_t)(gpus + count);
    if (place == 81)
        return nvmlDeviceGetHandleByIndex_v2(first, second);
    if (about_gpu && place >= 213 && place <= 215)
        return number(second, 0);
    return about_gpu ? NOT_SUPPORTED : SUCCESS;
}

#define PLACE(place) \
    static int at_##place(uintptr_t first, void *second) { return by_place(place, first, second); }
#include "stubs.h"

int nvmlInternalGetExportTable(const void **table, const void *id)
{
    return *table = places, SUCCESS;
}
