/* A stand-in for NVIDIA's libnvidia-ml.so.1, built by the tests: the real binding loads it, and it serves what the file
 * "cards" in the folder NVML_STANDIN says, as of now. The file "faults" beside it says what fails.
 *
 * cards:   gpu NUMBER TOTAL_MB RESERVED_MB USED_MB ARCHITECTURE UUID NAME...
 *          mig NUMBER INSTANCE TOTAL_MB USED_MB UUID NAME...      an instance of the GPU above
 *          proc NUMBER PID MB INSTANCE                            INSTANCE is -1 on a whole GPU
 * faults:  FUNCTION CODE [NUMBER]     the function (or "device": all that take one) fails, for all or for one GPU
 *          hang FUNCTION              it never comes back
 *          no-memory                  processes are told without what they hold
 *          no-processes               none are told
 *          driver VERSION             the driver's version
 *
 * With -DOLD it lacks what drivers older than 510 lack.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB (1024ULL * 1024ULL)
#define MOST 16
#define NOT_AVAILABLE 0xFFFFFFFFFFFFFFFFULL

enum { OK = 0, UNINITIALIZED = 1, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };

typedef struct {
    int number, instance, arch;
    unsigned long long total, reserved, used;
    char uuid[96], name[96];
} device_t;
typedef struct { int number, instance; unsigned pid; unsigned long long mb; } process_t;
typedef struct { unsigned pid; unsigned long long used; unsigned gi, ci; } info_t;

static FILE *open_file(const char *name) {
    char path[4096];
    const char *folder = getenv("NVML_STANDIN");
    if (!folder) return NULL;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return fopen(path, "r");
}

static int held; /* how often it was initialised, and not shut down again */

/* What the faults say of a function and a GPU (-1: none): the error code, or 0. */
static int fault(const char *function, int number) {
    char line[256], word[96];
    int code, only, found = 0;
    if (!held && strcmp(function, "nvmlInitWithFlags")) return UNINITIALIZED;
    FILE *file = open_file("faults");
    if (!file) return 0;
    while (!found && fgets(line, sizeof line, file)) {
        if (sscanf(line, "hang %95s", word) == 1) {
            if (!strcmp(word, function)) for (;;) pause();
            continue;
        }
        only = -1;
        if (sscanf(line, "%95s %d %d", word, &code, &only) < 2) continue;
        if (strcmp(word, function) && !(number >= 0 && !strcmp(word, "device"))) continue;
        if (only < 0 || only == number) found = code;
    }
    fclose(file);
    return found;
}

static int has(const char *what, char *value, size_t size) {
    char line[256];
    size_t length = strlen(what);
    int found = 0;
    FILE *file = open_file("faults");
    if (!file) return 0;
    while (!found && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        if (strncmp(line, what, length)) continue;
        found = 1;
        if (value) snprintf(value, size, "%s", line[length] ? line + length + 1 : "");
    }
    fclose(file);
    return found;
}

/* The devices and processes as they are now; how many devices. */
static int load(device_t *devices, process_t *processes, int *count) {
    char line[512];
    int devices_found = 0;
    FILE *file = open_file("cards");
    *count = 0;
    if (!file) return 0;
    while (fgets(line, sizeof line, file)) {
        device_t d = {.instance = -1};
        process_t p = {0};
        if (sscanf(line, "gpu %d %llu %llu %llu %d %95s %95[^\n]", &d.number, &d.total, &d.reserved, &d.used, &d.arch,
                   d.uuid, d.name) == 7 ||
            sscanf(line, "mig %d %d %llu %llu %95s %95[^\n]", &d.number, &d.instance, &d.total, &d.used, d.uuid,
                   d.name) == 6) {
            if (devices_found < MOST) devices[devices_found++] = d;
        } else if (sscanf(line, "proc %d %u %llu %d", &p.number, &p.pid, &p.mb, &p.instance) == 4) {
            if (*count < 256) processes[(*count)++] = p;
        }
    }
    fclose(file);
    return devices_found;
}

/* A handle is 1 + 100 * GPU + (1 + instance). */
static void *handle_of(int number, int instance) { return (void *)(long)(1 + 100 * number + 1 + instance); }

static int find(void *handle, const char *function, device_t *device, process_t *processes, int *count) {
    device_t devices[MOST];
    int number = (int)(((long)handle - 1) / 100), instance = (int)(((long)handle - 1) % 100) - 1;
    int failed = fault(function, number), n = load(devices, processes, count);
    if (failed) return failed;
    for (int i = 0; i < n; i++)
        if (devices[i].number == number && devices[i].instance == instance) {
            *device = devices[i];
            return OK;
        }
    return NOT_FOUND;
}

#define FIND(handle) \
    device_t d; process_t all[256]; int n; \
    int failed = find(handle, __func__, &d, all, &n); \
    if (failed) return failed
#define TEXT(buffer, length, text) snprintf(buffer, length, "%s", text)

static int instances(int number) {
    device_t devices[MOST];
    process_t all[256];
    int n, count = load(devices, all, &n), found = 0;
    for (int i = 0; i < count; i++) found += devices[i].number == number && devices[i].instance >= 0;
    return found;
}

int nvmlInitWithFlags(unsigned flags) {
    int failed = fault(__func__, -1);
    (void)flags;
    held += !failed;
    return failed;
}
int nvmlShutdown(void) {
    if (!held) return UNINITIALIZED;
    held--;
    return OK;
}
const char *nvmlErrorString(int code) {
    static char text[32];
    snprintf(text, sizeof text, "error %d", code);
    return text;
}
int nvmlSystemGetDriverVersion(char *text, unsigned length) {
    char version[64] = "580.65.06";
    has("driver", version, sizeof version);
    TEXT(text, length, version);
    return fault(__func__, -1);
}
int nvmlSystemGetNVMLVersion(char *text, unsigned length) { TEXT(text, length, "13.580.65.06"); return OK; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 13000; return OK; }
int nvmlSystemGetProcessName(unsigned pid, char *text, unsigned length) {
    (void)pid;
    TEXT(text, length, "/usr/bin/told-by\tthe-driver");
    return OK;
}
int nvmlDeviceGetCount_v2(unsigned *count) {
    device_t devices[MOST];
    process_t all[256];
    int n, found = load(devices, all, &n);
    *count = 0;
    for (int i = 0; i < found; i++) *count += devices[i].instance < 0;
    return fault(__func__, -1);
}
int nvmlDeviceGetHandleByIndex_v2(unsigned number, void **handle) {
    *handle = handle_of((int)number, -1);
    FIND(*handle);
    return OK;
}
int nvmlDeviceGetName(void *handle, char *text, unsigned length) { FIND(handle); TEXT(text, length, d.name); return OK; }
int nvmlDeviceGetUUID(void *handle, char *text, unsigned length) { FIND(handle); TEXT(text, length, d.uuid); return OK; }
int nvmlDeviceGetArchitecture(void *handle, unsigned *arch) { FIND(handle); *arch = (unsigned)d.arch; return OK; }
int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) {
    FIND(handle);
    *major = d.arch, *minor = 9;
    return OK;
}
int nvmlDeviceGetPersistenceMode(void *handle, unsigned *mode) { FIND(handle); *mode = 0; return OK; }
int nvmlDeviceGetMigMode(void *handle, unsigned *now, unsigned *later) {
    FIND(handle);
    *now = *later = instances(d.number) > 0;
    return OK;
}
int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *count) { FIND(handle); *count = 7; return OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned instance, void **found) {
    FIND(handle);
    *found = handle_of(d.number, (int)instance);
    device_t place;
    return find(*found, __func__, &place, all, &n);
}

int nvmlDeviceGetMemoryInfo(void *handle, unsigned long long *memory) {
    FIND(handle);
    memory[0] = d.total * MIB;
    memory[1] = (d.total - d.reserved - d.used) * MIB;
    memory[2] = (d.used + d.reserved) * MIB; /* includes what is reserved, as drivers do */
    return OK;
}

static int list(void *handle, unsigned *count, info_t *into, const char *function, int graphics) {
    device_t d;
    process_t all[256];
    int n, failed = find(handle, function, &d, all, &n);
    if (failed) return failed;
    if (d.instance < 0 && instances(d.number)) return NOT_SUPPORTED; /* the parent of instances */
    info_t found[256];
    unsigned told = 0;
    for (int i = 0; i < n && !has("no-processes", NULL, 0); i++) {
        if (all[i].number != d.number || all[i].instance != d.instance) continue;
        if (graphics && all[i].pid % 2) continue; /* some stand in both lists, with less */
        unsigned long long mb = graphics ? all[i].mb / 2 : all[i].mb;
        info_t one = {all[i].pid, has("no-memory", NULL, 0) ? NOT_AVAILABLE : mb * MIB, 0xFFFFFFFF, 0xFFFFFFFF};
        found[told++] = one;
    }
    unsigned room = *count;
    *count = told;
    if (told > room) return INSUFFICIENT_SIZE;
    if (told) memcpy(into, found, told * sizeof *found);
    return OK;
}

#define LISTS(version) \
    int nvmlDeviceGetComputeRunningProcesses_##version(void *h, unsigned *c, info_t *i) { \
        return list(h, c, i, __func__, 0); } \
    int nvmlDeviceGetGraphicsRunningProcesses_##version(void *h, unsigned *c, info_t *i) { \
        return list(h, c, i, __func__, 1); } \
    int nvmlDeviceGetMPSComputeRunningProcesses_##version(void *h, unsigned *c, info_t *i) { \
        (void)h, (void)c, (void)i; return NOT_SUPPORTED; }
LISTS(v2)
#ifndef OLD
LISTS(v3)
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_v2_t;
int nvmlDeviceGetMemoryInfo_v2(void *handle, memory_v2_t *memory) {
    FIND(handle);
    memory->total = d.total * MIB, memory->reserved = d.reserved * MIB;
    memory->free = (d.total - d.reserved - d.used) * MIB, memory->used = d.used * MIB;
    return OK;
}
#endif
