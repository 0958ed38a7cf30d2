/* A small shared library with NVML's ABI, for tests and for `make run` on a
 * machine without a card. It is compiled against go-nvml's nvml.h and loaded by
 * the same dlopen path as NVIDIA's, so that everything above it is real.
 *
 * Its state is the mapped file named by FAKENVML_STATE (state.h); several
 * processes may share one. Which functions it exports is the linker's choice (a
 * version script per variant), so that drivers 470 and 535 can be mimicked. */
#define _GNU_SOURCE
#define NVML_NO_UNVERSIONED_FUNC_DEFS 1
#include "nvml.h"
#include "state.h"
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* The marker: a library that exports it makes no real readings. */
int otelcolGpuSimulated = 1;

static struct state *S;
static int64_t initialised_generation = -1;
static int64_t init_count;

static struct state *map_state(void) {
	if (S) return S;
	const char *path = getenv("FAKENVML_STATE");
	if (!path) { fprintf(stderr, "fakenvml: FAKENVML_STATE is not set\n"); return NULL; }
	int fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0) { perror("fakenvml: FAKENVML_STATE"); return NULL; }
	struct stat st;
	if (fstat(fd, &st) != 0 || st.st_size < (off_t)sizeof(struct state)) {
		fprintf(stderr, "fakenvml: %s is %lld bytes, want %zu\n", path, (long long)st.st_size, sizeof(struct state));
		close(fd);
		return NULL;
	}
	void *p = mmap(NULL, sizeof(struct state), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (p == MAP_FAILED) { perror("fakenvml: mmap"); return NULL; }
	if (((struct state *)p)->magic != STATE_MAGIC || ((struct state *)p)->size != (int64_t)sizeof(struct state)) {
		fprintf(stderr, "fakenvml: %s was written for another layout\n", path);
		munmap(p, sizeof(struct state));
		return NULL;
	}
	return S = p;
}

static int64_t load(int64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }

static int64_t now_ns(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* The wall clock, which can jump. */
static int64_t wall_ns(void) {
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec + load(&S->clock_offset_ns);
}

static void pause_ns(int64_t ns) {
	struct timespec t = {ns / 1000000000LL, ns % 1000000000LL};
	nanosleep(&t, NULL);
}

/* What calls cost on real drivers (docs/gpus.md), in ns. The others were not published. */
#define COST_MEMORY 12000
#define COST_UTILIZATION 2500
#define COST_FAN 137000
#define COST_POWER 365000
#define COST_OTHER 50000
#define COST_FIELD 5000

static pthread_mutex_t driver_lock = PTHREAD_MUTEX_INITIALIZER;
static __thread int64_t fields_asked; /* of the GetFieldValues that begins */

static int64_t cost_of(enum function_id f) {
	switch (f) {
	case FUNC_nvmlDeviceGetMemoryInfo: case FUNC_nvmlDeviceGetMemoryInfo_v2: return COST_MEMORY;
	case FUNC_nvmlDeviceGetUtilizationRates: return COST_UTILIZATION;
	case FUNC_nvmlDeviceGetFanSpeed_v2: case FUNC_nvmlDeviceGetFanSpeedRPM: return COST_FAN;
	case FUNC_nvmlDeviceGetPowerUsage: return COST_POWER;
	case FUNC_nvmlDeviceGetComputeRunningProcesses_v3: case FUNC_nvmlDeviceGetGraphicsRunningProcesses_v3: return load(&S->list_ns);
	case FUNC_nvmlDeviceGetFieldValues: return COST_OTHER + COST_FIELD * fields_asked;
	case FUNC_nvmlEventSetWait_v2: return 0; /* waits without the lock */
	default: return COST_OTHER;
	}
}

/* hold_lock takes the time of a call behind the driver's lock. It sleeps through a long
 * one and spins through the rest, since a sleep of 12 us takes 70. */
static void hold_lock(enum function_id f) {
	if (!load(&S->locked)) return;
	int64_t cost = cost_of(f);
	if (cost == 0) return;
	int64_t every = load(&S->stall_every);
	pthread_mutex_lock(&driver_lock);
	int64_t n = __atomic_add_fetch(&S->locked_calls, 1, __ATOMIC_RELAXED);
	if (every > 0 && n % every == 0) cost += load(&S->stall_ns);
	int64_t begin = now_ns(), end = begin + cost, span = begin;
	if (cost > 300000) { pause_ns(cost - 150000); span = now_ns(); }
	int64_t t = span;
	while (t < end) t = now_ns();
	__atomic_add_fetch(&S->held_ns, t - begin, __ATOMIC_RELAXED);
	__atomic_add_fetch(&S->spun_ns, t - span, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&driver_lock);
}

/* enter does for every function what the driver would: it counts, waits, hangs
 * or fails as told. card is the index; the library's own functions use 0. */
static nvmlReturn_t enter(int64_t card, enum function_id f) {
	struct state *s = map_state();
	if (!s) return NVML_ERROR_LIBRARY_NOT_FOUND;
	if (card < 0 || card >= MAX_CARDS) return NVML_ERROR_INVALID_ARGUMENT;
	struct function *fn = &s->card[card].functions[f];
	__atomic_add_fetch(&fn->calls, 1, __ATOMIC_RELAXED);
	hold_lock(f);
	int64_t delay = load(&fn->delay_ns) + __atomic_exchange_n(&fn->once_ns, 0, __ATOMIC_ACQ_REL);
	if (delay > 0) pause_ns(delay);
	while (load(&fn->hang)) pause_ns(2000000);
	return (nvmlReturn_t)load(&fn->ret);
}

static nvmlReturn_t driver_state(void) {
	if (init_count == 0) return NVML_ERROR_UNINITIALIZED;
	if (load(&S->driver) == 0) return NVML_ERROR_DRIVER_NOT_LOADED;
	if (load(&S->driver) == 2) return NVML_ERROR_LIB_RM_VERSION_MISMATCH;
	if (load(&S->generation) != initialised_generation) return NVML_ERROR_UNINITIALIZED;
	return NVML_SUCCESS;
}

/* Handles: 1..MAX_CARDS are GPUs, from MIG_BASE on MIG devices. */
#define MIG_BASE 0x1000
static nvmlDevice_t handle_of(int64_t card) { nvmlDevice_t d = {(struct nvmlDevice_st *)(intptr_t)(card + 1)}; return d; }
static int64_t handle_value(nvmlDevice_t d) { return (int64_t)(intptr_t)d.handle; }
static int is_mig(nvmlDevice_t d) { return handle_value(d) >= MIG_BASE; }
static int64_t card_of(nvmlDevice_t d) {
	int64_t h = handle_value(d);
	return h >= MIG_BASE ? (h - MIG_BASE) / MAX_MIG : h - 1;
}

/* device opens every call on a GPU; it leaves the card in *c. */
static nvmlReturn_t device(nvmlDevice_t d, enum function_id f, struct card **c) {
	int64_t i = card_of(d);
	nvmlReturn_t r = enter(i, f);
	if (!S) return NVML_ERROR_UNINITIALIZED;
	nvmlReturn_t alive = driver_state();
	if (alive != NVML_SUCCESS) return alive;
	if (i >= load(&S->cards)) return NVML_ERROR_INVALID_ARGUMENT;
	*c = &S->card[i];
	if (load(&(*c)->lost) || !load(&(*c)->present)) return NVML_ERROR_GPU_IS_LOST;
	return r;
}

#define DEVICE(d, f) \
	struct card *c; \
	nvmlReturn_t r = device(d, FUNC_##f, &c); \
	if (r != NVML_SUCCESS) return r;

static nvmlReturn_t value(struct card *c, enum value_id v, int64_t *out) {
	*out = load(&c->values[v].value);
	return (nvmlReturn_t)load(&c->values[v].ret);
}

static nvmlReturn_t value_uint(struct card *c, enum value_id v, unsigned int *out) {
	int64_t x;
	nvmlReturn_t r = value(c, v, &x);
	if (r == NVML_SUCCESS) *out = (unsigned int)x;
	return r;
}

static nvmlReturn_t text(struct card *c, enum text_id t, char *out, unsigned int length) {
	size_t n = strnlen(c->texts[t], TEXT_SIZE);
	if (n == 0) return NVML_ERROR_NOT_SUPPORTED;
	if (n + 1 > length) return NVML_ERROR_INSUFFICIENT_SIZE;
	memcpy(out, c->texts[t], n);
	out[n] = 0;
	return NVML_SUCCESS;
}

/* integral of a series from a to b, in value·ns. Steps older than the ring are
 * taken at the oldest value that is still known. */
static double integral(struct series *s, int64_t a, int64_t b) {
	int64_t n = load(&s->count);
	if (n == 0 || b <= a) return 0;
	int64_t first = n > MAX_STEPS ? n - MAX_STEPS : 0;
	double sum = 0;
	int64_t end = b;
	for (int64_t i = n - 1; i >= first && end > a; i--) {
		struct step *st = &s->steps[i % MAX_STEPS];
		int64_t begin = i == first || st->at_ns < a ? a : st->at_ns;
		if (begin < end) { sum += (double)st->value * (double)(end - begin); end = begin; }
	}
	return sum;
}

/* average over the last whole period: what the driver shows until the next. */
static int64_t average(struct series *s, int64_t period) {
	if (period <= 0) period = 1;
	int64_t end = now_ns() / period * period;
	return (int64_t)(integral(s, end - period, end) / (double)period + 0.5);
}

static int64_t newest(struct series *s) {
	int64_t n = load(&s->count);
	return n == 0 ? 0 : s->steps[(n - 1) % MAX_STEPS].value;
}

/* step_at is the step that holds a time, or the oldest that is known. */
static struct step *step_at(struct series *s, int64_t t) {
	int64_t n = load(&s->count);
	int64_t first = n > MAX_STEPS ? n - MAX_STEPS + 1 : 0; /* the oldest may be written now */
	struct step *st = NULL;
	for (int64_t i = n - 1; i >= first; i--) {
		st = &s->steps[i % MAX_STEPS];
		if (st->at_ns <= t) break;
	}
	return st;
}

/* total_at is the energy up to a time, in mJ. */
static double total_at(struct card *c, int64_t t) {
	struct step *st = step_at(&c->series[SERIES_power], t);
	if (st == NULL) return (double)load(&c->energy_mj);
	return (double)st->total + (double)st->value * (double)(t - st->at_ns) / 1e9; /* mW · ns → mJ */
}

/* What a counter that samples a part of each step has counted, by GPU. */
static struct { int64_t until; double sum; } sampled[MAX_CARDS];
static pthread_mutex_t sampling = PTHREAD_MUTEX_INITIALIZER;

static int64_t energy(struct card *c) {
	int64_t period = load(&c->values[VALUE_counter_period_us].value) * 1000;
	int64_t share = load(&c->values[VALUE_counter_share_permille].value);
	int64_t gain = load(&c->values[VALUE_counter_gain_permille].value);
	int64_t t = now_ns() - load(&c->values[VALUE_counter_lag_us].value) * 1000;
	if (period > 0) t = t / period * period;
	double mj = 0;
	if (period > 0 && share > 0 && share < 1000) {
		pthread_mutex_lock(&sampling);
		int64_t card = c - S->card;
		if (sampled[card].until == 0 || sampled[card].until > t || t - sampled[card].until > 60000000000LL) {
			sampled[card].until = t;
			sampled[card].sum = total_at(c, t);
		}
		for (; sampled[card].until < t; sampled[card].until += period) {
			int64_t end = sampled[card].until + period;
			sampled[card].sum += (total_at(c, end) - total_at(c, end - period * share / 1000)) * 1000.0 / (double)share;
		}
		mj = sampled[card].sum;
		pthread_mutex_unlock(&sampling);
	} else {
		mj = total_at(c, t);
	}
	return (int64_t)(gain > 0 ? mj * (double)gain / 1000 : mj);
}

/* instant is the power as it was refreshed last. */
static int64_t instant(struct card *c) {
	int64_t period = load(&c->values[VALUE_power_period_us].value) * 1000;
	if (period <= 0) return newest(&c->series[SERIES_power]);
	struct step *st = step_at(&c->series[SERIES_power], now_ns() / period * period);
	return st == NULL ? 0 : st->value;
}

/* --- library --- */

nvmlReturn_t nvmlInit_v2(void) {
	nvmlReturn_t r = enter(0, FUNC_nvmlInit_v2);
	if (r != NVML_SUCCESS) return r;
	if (load(&S->driver) == 0) return NVML_ERROR_DRIVER_NOT_LOADED;
	if (load(&S->driver) == 2) return NVML_ERROR_LIB_RM_VERSION_MISMATCH;
	initialised_generation = load(&S->generation);
	__atomic_add_fetch(&init_count, 1, __ATOMIC_ACQ_REL);
	__atomic_add_fetch(&S->inits, 1, __ATOMIC_RELAXED);
	return NVML_SUCCESS;
}
nvmlReturn_t nvmlInit(void) { return nvmlInit_v2(); }
nvmlReturn_t nvmlInitWithFlags(unsigned int flags) { (void)flags; return nvmlInit_v2(); }

nvmlReturn_t nvmlShutdown(void) {
	nvmlReturn_t r = enter(0, FUNC_nvmlShutdown);
	if (r != NVML_SUCCESS) return r;
	if (init_count == 0) return NVML_ERROR_UNINITIALIZED;
	__atomic_sub_fetch(&init_count, 1, __ATOMIC_ACQ_REL);
	return NVML_SUCCESS;
}

const char *nvmlErrorString(nvmlReturn_t r) {
	switch (r) {
	case NVML_SUCCESS: return "Success";
	case NVML_ERROR_UNINITIALIZED: return "Uninitialized";
	case NVML_ERROR_INVALID_ARGUMENT: return "Invalid Argument";
	case NVML_ERROR_NOT_SUPPORTED: return "Not Supported";
	case NVML_ERROR_NO_PERMISSION: return "Insufficient Permissions";
	case NVML_ERROR_DRIVER_NOT_LOADED: return "Driver Not Loaded";
	case NVML_ERROR_TIMEOUT: return "Timeout";
	case NVML_ERROR_GPU_IS_LOST: return "GPU is lost";
	case NVML_ERROR_LIB_RM_VERSION_MISMATCH: return "Driver/library version mismatch";
	case NVML_ERROR_UNKNOWN: return "Unknown Error";
	default: return "Error of the test library";
	}
}

static nvmlReturn_t copy_string(const char *from, char *to, unsigned int length) {
	size_t n = strnlen(from, TEXT_SIZE);
	if (n + 1 > length) return NVML_ERROR_INSUFFICIENT_SIZE;
	memcpy(to, from, n);
	to[n] = 0;
	return NVML_SUCCESS;
}

#define LIBRARY(f) \
	nvmlReturn_t r = enter(0, FUNC_##f); \
	if (!S) return NVML_ERROR_UNINITIALIZED; \
	nvmlReturn_t alive = driver_state(); \
	if (alive != NVML_SUCCESS) return alive; \
	if (r != NVML_SUCCESS) return r;

nvmlReturn_t nvmlSystemGetDriverVersion(char *v, unsigned int n) { LIBRARY(nvmlSystemGetDriverVersion) return copy_string(S->driver_version, v, n); }
nvmlReturn_t nvmlSystemGetNVMLVersion(char *v, unsigned int n) { LIBRARY(nvmlSystemGetNVMLVersion) return copy_string(S->nvml_version, v, n); }
nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *v) { LIBRARY(nvmlSystemGetCudaDriverVersion_v2) *v = (int)load(&S->cuda_version); return NVML_SUCCESS; }
nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *v) { return nvmlSystemGetCudaDriverVersion_v2(v); }

/* Absent GPUs keep no index, as after a hot removal. */
nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count) {
	LIBRARY(nvmlDeviceGetCount_v2)
	unsigned int n = 0;
	for (int64_t i = 0; i < load(&S->cards); i++) n += load(&S->card[i].present) != 0;
	*count = n;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *d) {
	if (!map_state()) return NVML_ERROR_UNINITIALIZED;
	nvmlReturn_t alive = driver_state();
	if (alive != NVML_SUCCESS) return alive;
	unsigned int n = 0;
	for (int64_t i = 0; i < load(&S->cards); i++) {
		if (!load(&S->card[i].present)) continue;
		if (n++ != index) continue;
		nvmlReturn_t r = enter(i, FUNC_nvmlDeviceGetHandleByIndex_v2);
		if (r != NVML_SUCCESS) return r;
		if (load(&S->card[i].lost)) return NVML_ERROR_GPU_IS_LOST;
		*d = handle_of(i);
		return NVML_SUCCESS;
	}
	return NVML_ERROR_INVALID_ARGUMENT;
}

/* --- identity --- */

static struct mig *mig_of(struct card *c, nvmlDevice_t d) {
	struct mig *m = &c->mig[(handle_value(d) - MIG_BASE) % MAX_MIG];
	return load(&m->present) ? m : NULL;
}

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t d, char *out, unsigned int n) {
	DEVICE(d, nvmlDeviceGetName)
	if (is_mig(d)) { struct mig *m = mig_of(c, d); return m ? copy_string(m->name, out, n) : NVML_ERROR_NOT_FOUND; }
	return text(c, TEXT_name, out, n);
}
nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t d, char *out, unsigned int n) {
	DEVICE(d, nvmlDeviceGetUUID)
	if (is_mig(d)) { struct mig *m = mig_of(c, d); return m ? copy_string(m->uuid, out, n) : NVML_ERROR_NOT_FOUND; }
	return text(c, TEXT_uuid, out, n);
}
nvmlReturn_t nvmlDeviceGetSerial(nvmlDevice_t d, char *out, unsigned int n) { DEVICE(d, nvmlDeviceGetSerial) return text(c, TEXT_serial, out, n); }
nvmlReturn_t nvmlDeviceGetVbiosVersion(nvmlDevice_t d, char *out, unsigned int n) { DEVICE(d, nvmlDeviceGetVbiosVersion) return text(c, TEXT_vbios, out, n); }
nvmlReturn_t nvmlDeviceGetBoardPartNumber(nvmlDevice_t d, char *out, unsigned int n) { DEVICE(d, nvmlDeviceGetBoardPartNumber) return text(c, TEXT_board_part_number, out, n); }

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t d, nvmlPciInfo_t *pci) {
	DEVICE(d, nvmlDeviceGetPciInfo_v3)
	memset(pci, 0, sizeof *pci);
	r = text(c, TEXT_pci_bus_id, pci->busId, sizeof pci->busId);
	if (r != NVML_SUCCESS) return r;
	sscanf(pci->busId, "%x:%x:%x", &pci->domain, &pci->bus, &pci->device);
	snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, NVML_DEVICE_PCI_BUS_ID_LEGACY_FMT, pci->domain & 0xffff, pci->bus & 0xff, pci->device & 0xff);
	return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetPciInfo_v2(nvmlDevice_t d, nvmlPciInfo_t *pci) { return nvmlDeviceGetPciInfo_v3(d, pci); }

nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t d, nvmlDeviceArchitecture_t *a) { DEVICE(d, nvmlDeviceGetArchitecture) return value_uint(c, VALUE_architecture, a); }
nvmlReturn_t nvmlDeviceGetBrand(nvmlDevice_t d, nvmlBrandType_t *b) { DEVICE(d, nvmlDeviceGetBrand) return value_uint(c, VALUE_brand, (unsigned int *)b); }
nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t d, unsigned int *v) { DEVICE(d, nvmlDeviceGetMinorNumber) return value_uint(c, VALUE_minor_number, v); }
nvmlReturn_t nvmlDeviceGetBoardId(nvmlDevice_t d, unsigned int *v) { DEVICE(d, nvmlDeviceGetBoardId) return value_uint(c, VALUE_board_id, v); }
nvmlReturn_t nvmlDeviceGetNumaNodeId(nvmlDevice_t d, unsigned int *v) { DEVICE(d, nvmlDeviceGetNumaNodeId) return value_uint(c, VALUE_numa_node, v); }

/* --- MIG --- */

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t d, unsigned int *current, unsigned int *pending) {
	DEVICE(d, nvmlDeviceGetMigMode)
	r = value_uint(c, VALUE_mig_mode, current);
	*pending = *current;
	return r;
}
nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t d, unsigned int *count) {
	DEVICE(d, nvmlDeviceGetMaxMigDeviceCount)
	*count = load(&c->values[VALUE_mig_mode].ret) == NVML_SUCCESS ? MAX_MIG : 0;
	return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t d, unsigned int index, nvmlDevice_t *mig) {
	DEVICE(d, nvmlDeviceGetMigDeviceHandleByIndex)
	if (load(&c->values[VALUE_mig_mode].value) != NVML_DEVICE_MIG_ENABLE) return NVML_ERROR_NOT_SUPPORTED;
	if (index >= MAX_MIG) return NVML_ERROR_INVALID_ARGUMENT;
	if (!load(&c->mig[index].present)) return NVML_ERROR_NOT_FOUND;
	mig->handle = (struct nvmlDevice_st *)(intptr_t)(MIG_BASE + card_of(d) * MAX_MIG + index);
	return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t d, unsigned int *yes) { DEVICE(d, nvmlDeviceIsMigDeviceHandle) *yes = is_mig(d); return NVML_SUCCESS; }
nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t d, nvmlDevice_t *parent) {
	DEVICE(d, nvmlDeviceGetDeviceHandleFromMigDeviceHandle)
	if (!is_mig(d)) return NVML_ERROR_INVALID_ARGUMENT;
	*parent = handle_of(card_of(d));
	return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t d, unsigned int *id) {
	DEVICE(d, nvmlDeviceGetGpuInstanceId)
	struct mig *m = is_mig(d) ? mig_of(c, d) : NULL;
	if (!m) return NVML_ERROR_NOT_FOUND;
	*id = (unsigned int)load(&m->gpu_instance);
	return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t d, unsigned int *id) {
	DEVICE(d, nvmlDeviceGetComputeInstanceId)
	struct mig *m = is_mig(d) ? mig_of(c, d) : NULL;
	if (!m) return NVML_ERROR_NOT_FOUND;
	*id = (unsigned int)load(&m->compute_instance);
	return NVML_SUCCESS;
}

/* --- memory --- */

/* A MIG device has no more than its memory; on a GPU with MIG on, readings of
 * utilisation answer NOT_SUPPORTED, as the driver does. */
static nvmlReturn_t memory_numbers(struct card *c, nvmlDevice_t d, int64_t *total, int64_t *reserved, int64_t *used) {
	if (is_mig(d)) {
		struct mig *m = mig_of(c, d);
		if (!m) return NVML_ERROR_NOT_FOUND;
		*total = load(&m->memory_total); *reserved = load(&m->memory_reserved); *used = load(&m->memory_used);
		return NVML_SUCCESS;
	}
	nvmlReturn_t r = value(c, VALUE_memory_total, total);
	if (r == NVML_SUCCESS) r = value(c, VALUE_memory_reserved, reserved);
	if (r == NVML_SUCCESS) r = value(c, VALUE_memory_used, used);
	return r;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t d, nvmlMemory_v2_t *m) {
	DEVICE(d, nvmlDeviceGetMemoryInfo_v2)
	if (m->version != nvmlMemory_v2) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
	int64_t total, reserved, used;
	r = memory_numbers(c, d, &total, &reserved, &used);
	if (r != NVML_SUCCESS) return r;
	m->total = (unsigned long long)total;
	m->reserved = (unsigned long long)reserved;
	m->used = (unsigned long long)used;
	m->free = (unsigned long long)(total - reserved - used);
	return NVML_SUCCESS;
}

/* The first version counts the driver's reserve as used. */
nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t d, nvmlMemory_t *m) {
	DEVICE(d, nvmlDeviceGetMemoryInfo)
	int64_t total, reserved, used;
	r = memory_numbers(c, d, &total, &reserved, &used);
	if (r != NVML_SUCCESS) return r;
	m->total = (unsigned long long)total;
	m->used = (unsigned long long)(used + reserved);
	m->free = (unsigned long long)(total - reserved - used);
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t d, nvmlBAR1Memory_t *m) {
	DEVICE(d, nvmlDeviceGetBAR1MemoryInfo)
	int64_t total, used;
	r = value(c, VALUE_bar1_total, &total);
	if (r == NVML_SUCCESS) r = value(c, VALUE_bar1_used, &used);
	if (r != NVML_SUCCESS) return r;
	m->bar1Total = (unsigned long long)total;
	m->bar1Used = (unsigned long long)used;
	m->bar1Free = (unsigned long long)(total - used);
	return NVML_SUCCESS;
}

/* --- utilisation --- */

static int mig_on(struct card *c) { return load(&c->values[VALUE_mig_mode].ret) == NVML_SUCCESS && load(&c->values[VALUE_mig_mode].value) == NVML_DEVICE_MIG_ENABLE; }

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t d, nvmlUtilization_t *u) {
	DEVICE(d, nvmlDeviceGetUtilizationRates)
	if (mig_on(c)) return NVML_ERROR_NOT_SUPPORTED;
	u->gpu = (unsigned int)average(&c->series[SERIES_gpu], load(&c->sampling_period_ns));
	u->memory = (unsigned int)average(&c->series[SERIES_memory], load(&c->sampling_period_ns));
	return NVML_SUCCESS;
}

static nvmlReturn_t engine(struct card *c, enum series_id s, unsigned int *u, unsigned int *period_us) {
	if (mig_on(c)) return NVML_ERROR_NOT_SUPPORTED;
	*u = (unsigned int)average(&c->series[s], load(&c->sampling_period_ns));
	*period_us = (unsigned int)(load(&c->sampling_period_ns) / 1000);
	return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetEncoderUtilization(nvmlDevice_t d, unsigned int *u, unsigned int *p) { DEVICE(d, nvmlDeviceGetEncoderUtilization) return engine(c, SERIES_encoder, u, p); }
nvmlReturn_t nvmlDeviceGetDecoderUtilization(nvmlDevice_t d, unsigned int *u, unsigned int *p) { DEVICE(d, nvmlDeviceGetDecoderUtilization) return engine(c, SERIES_decoder, u, p); }
nvmlReturn_t nvmlDeviceGetJpgUtilization(nvmlDevice_t d, unsigned int *u, unsigned int *p) { DEVICE(d, nvmlDeviceGetJpgUtilization) return engine(c, SERIES_jpeg, u, p); }
nvmlReturn_t nvmlDeviceGetOfaUtilization(nvmlDevice_t d, unsigned int *u, unsigned int *p) { DEVICE(d, nvmlDeviceGetOfaUtilization) return engine(c, SERIES_ofa, u, p); }

/* The driver keeps the averages of its last sampling periods, with timestamps
 * in µs of the wall clock. */
#define MOST_SAMPLES 120
nvmlReturn_t nvmlDeviceGetSamples(nvmlDevice_t d, nvmlSamplingType_t type, unsigned long long last_seen, nvmlValueType_t *value_type, unsigned int *count, nvmlSample_t *samples) {
	DEVICE(d, nvmlDeviceGetSamples)
	enum series_id which;
	switch (type) {
	case NVML_GPU_UTILIZATION_SAMPLES: which = SERIES_gpu; break;
	case NVML_MEMORY_UTILIZATION_SAMPLES: which = SERIES_memory; break;
	case NVML_ENC_UTILIZATION_SAMPLES: which = SERIES_encoder; break;
	case NVML_DEC_UTILIZATION_SAMPLES: which = SERIES_decoder; break;
	default: return NVML_ERROR_NOT_SUPPORTED;
	}
	if (mig_on(c)) return NVML_ERROR_NOT_SUPPORTED;
	int64_t real = wall_ns(), offset = real - now_ns();
	int64_t period = load(&c->sampling_period_ns) / 1000 * 1000;
	if (period <= 0) period = 1000;
	int64_t newest_end = real / period * period;
	unsigned int there = 0;
	while (there < MOST_SAMPLES && (unsigned long long)((newest_end - there * period) / 1000) > last_seen) there++;
	*value_type = NVML_VALUE_TYPE_UNSIGNED_INT;
	if (!samples) { *count = there; return there ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND; }
	if (there > *count) there = *count;
	for (unsigned int i = 0; i < there; i++) {
		int64_t end = newest_end - (int64_t)(there - 1 - i) * period;
		samples[i].timeStamp = (unsigned long long)(end / 1000);
		samples[i].sampleValue.ullVal = 0;
		samples[i].sampleValue.uiVal = (unsigned int)(integral(&c->series[which], end - offset - period, end - offset) / (double)period + 0.5);
	}
	*count = there;
	return NVML_SUCCESS;
}

/* --- temperature, power, energy --- */

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t d, nvmlTemperatureSensors_t sensor, unsigned int *t) {
	DEVICE(d, nvmlDeviceGetTemperature)
	if (sensor != NVML_TEMPERATURE_GPU) return NVML_ERROR_INVALID_ARGUMENT;
	return value_uint(c, VALUE_temperature_gpu, t);
}
nvmlReturn_t nvmlDeviceGetTemperatureThreshold(nvmlDevice_t d, nvmlTemperatureThresholds_t which, unsigned int *t) {
	DEVICE(d, nvmlDeviceGetTemperatureThreshold)
	switch (which) {
	case NVML_TEMPERATURE_THRESHOLD_SHUTDOWN: return value_uint(c, VALUE_temperature_limit_shutdown, t);
	case NVML_TEMPERATURE_THRESHOLD_SLOWDOWN: return value_uint(c, VALUE_temperature_limit_slowdown, t);
	case NVML_TEMPERATURE_THRESHOLD_MEM_MAX: return value_uint(c, VALUE_temperature_limit_memory_max, t);
	case NVML_TEMPERATURE_THRESHOLD_GPU_MAX: return value_uint(c, VALUE_temperature_limit_gpu_max, t);
	default: return NVML_ERROR_NOT_SUPPORTED;
	}
}
nvmlReturn_t nvmlDeviceGetMarginTemperature(nvmlDevice_t d, nvmlMarginTemperature_t *margin) {
	DEVICE(d, nvmlDeviceGetMarginTemperature)
	if (margin->version != nvmlMarginTemperature_v1) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
	return value_uint(c, VALUE_temperature_margin, (unsigned int *)&margin->marginTemperature);
}
nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t d, unsigned int *mw) {
	DEVICE(d, nvmlDeviceGetPowerUsage)
	*mw = (unsigned int)average(&c->series[SERIES_power], load(&c->power_period_ns));
	return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t d, unsigned int *mw) { DEVICE(d, nvmlDeviceGetEnforcedPowerLimit) return value_uint(c, VALUE_power_limit_enforced, mw); }
nvmlReturn_t nvmlDeviceGetPowerManagementLimit(nvmlDevice_t d, unsigned int *mw) { DEVICE(d, nvmlDeviceGetPowerManagementLimit) return value_uint(c, VALUE_power_limit_current, mw); }
nvmlReturn_t nvmlDeviceGetPowerManagementDefaultLimit(nvmlDevice_t d, unsigned int *mw) { DEVICE(d, nvmlDeviceGetPowerManagementDefaultLimit) return value_uint(c, VALUE_power_limit_default, mw); }
nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t d, unsigned int *min, unsigned int *max) {
	DEVICE(d, nvmlDeviceGetPowerManagementLimitConstraints)
	r = value_uint(c, VALUE_power_limit_min, min);
	return r == NVML_SUCCESS ? value_uint(c, VALUE_power_limit_max, max) : r;
}
nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t d, unsigned long long *mj) {
	DEVICE(d, nvmlDeviceGetTotalEnergyConsumption)
	*mj = (unsigned long long)energy(c);
	return NVML_SUCCESS;
}

/* --- clocks --- */

static nvmlReturn_t clock_value(struct card *c, nvmlClockType_t type, enum value_id graphics, unsigned int *mhz) {
	if (type > NVML_CLOCK_VIDEO) return NVML_ERROR_INVALID_ARGUMENT;
	return value_uint(c, graphics + type, mhz);
}
nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t d, nvmlClockType_t type, unsigned int *mhz) { DEVICE(d, nvmlDeviceGetClockInfo) return clock_value(c, type, VALUE_clock_graphics, mhz); }
nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t d, nvmlClockType_t type, unsigned int *mhz) { DEVICE(d, nvmlDeviceGetMaxClockInfo) return clock_value(c, type, VALUE_clock_max_graphics, mhz); }
nvmlReturn_t nvmlDeviceGetPerformanceState(nvmlDevice_t d, nvmlPstates_t *p) {
	DEVICE(d, nvmlDeviceGetPerformanceState)
	return value_uint(c, VALUE_performance_state, (unsigned int *)p);
}
static nvmlReturn_t reasons(struct card *c, unsigned long long *bits) {
	int64_t x;
	nvmlReturn_t r = value(c, VALUE_throttle_reasons, &x);
	if (r == NVML_SUCCESS) *bits = (unsigned long long)x;
	return r;
}
nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t d, unsigned long long *bits) { DEVICE(d, nvmlDeviceGetCurrentClocksEventReasons) return reasons(c, bits); }
nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t d, unsigned long long *bits) { DEVICE(d, nvmlDeviceGetCurrentClocksThrottleReasons) return reasons(c, bits); }

/* The older counters: power, thermal and sync boost time, the same nanoseconds
 * as the field values of the same names. */
nvmlReturn_t nvmlDeviceGetViolationStatus(nvmlDevice_t d, nvmlPerfPolicyType_t policy, nvmlViolationTime_t *t) {
	DEVICE(d, nvmlDeviceGetViolationStatus)
	unsigned int field;
	switch (policy) {
	case NVML_PERF_POLICY_POWER: field = NVML_FI_DEV_PERF_POLICY_POWER; break;
	case NVML_PERF_POLICY_THERMAL: field = NVML_FI_DEV_PERF_POLICY_THERMAL; break;
	case NVML_PERF_POLICY_SYNC_BOOST: field = NVML_FI_DEV_PERF_POLICY_SYNC_BOOST; break;
	default: return NVML_ERROR_NOT_SUPPORTED;
	}
	t->violationTime = (unsigned long long)load(&c->fields[field].value);
	t->referenceTime = (unsigned long long)(now_ns() / 1000);
	return (nvmlReturn_t)load(&c->fields[field].ret);
}

/* --- NVLink: not readable while MIG is on --- */

static nvmlReturn_t link_of(struct card *c, unsigned int i, struct link **l) {
	if (mig_on(c) || !load(&c->links[0].present)) return NVML_ERROR_NOT_SUPPORTED;
	if (i >= MAX_LINKS || !load(&c->links[i].present)) return NVML_ERROR_INVALID_ARGUMENT;
	*l = &c->links[i];
	return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t d, unsigned int i, nvmlEnableState_t *active) {
	DEVICE(d, nvmlDeviceGetNvLinkState)
	struct link *l;
	r = link_of(c, i, &l);
	if (r == NVML_SUCCESS) *active = (nvmlEnableState_t)load(&l->active);
	return r;
}
nvmlReturn_t nvmlDeviceGetNvLinkErrorCounter(nvmlDevice_t d, unsigned int i, nvmlNvLinkErrorCounter_t which, unsigned long long *n) {
	DEVICE(d, nvmlDeviceGetNvLinkErrorCounter)
	struct link *l;
	r = link_of(c, i, &l);
	if (r != NVML_SUCCESS) return r;
	if (which >= NVML_NVLINK_ERROR_COUNT) return NVML_ERROR_INVALID_ARGUMENT;
	*n = (unsigned long long)load(&l->errors[which]);
	return NVML_SUCCESS;
}
/* The driver answers for links that the GPU does not have, too: with 0. */
static nvmlReturn_t link_throughput(struct card *c, nvmlFieldValue_t *v) {
	static struct link absent;
	struct link *l;
	if (mig_on(c)) return NVML_ERROR_NOT_SUPPORTED;
	if (link_of(c, v->scopeId, &l) != NVML_SUCCESS) l = &absent;
	v->valueType = NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
	v->value.ullVal = (unsigned long long)load(v->fieldId == NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX ? &l->tx_kib : &l->rx_kib);
	return NVML_SUCCESS;
}

/* The counters of NVLink 5: the links' own, so that each has another number. The error
 * rates are encoded. */
static void nvlink5(struct card *c, nvmlFieldValue_t *v) {
	struct link *l;
	v->nvmlReturn = link_of(c, v->scopeId, &l);
	if (v->fieldId != NVML_FI_DEV_NVLINK_COUNT_EFFECTIVE_BER && v->fieldId != NVML_FI_DEV_NVLINK_COUNT_SYMBOL_BER)
		v->value.sllVal += v->scopeId;
}

/* field_id turns a number that the driver is asked for into the number of nvml.h (CUDA
 * 13.1 and newer), by which the state holds the fields. Drivers 575 to 589 had the
 * throttle counters at 251 to 253, in front of power smoothing, which came to stand in
 * front of them with driver 590; older ones have neither. */
static unsigned int field_id(unsigned int asked) {
	int driver = atoi(S->driver_version);
	if (driver >= 590 || asked < 251 || asked > 271) return asked;
	if (driver < 575) return MAX_FIELDS;
	return asked <= 253 ? asked + 18 : asked - 3;
}

nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t d, int count, nvmlFieldValue_t *values) {
	fields_asked = count;
	DEVICE(d, nvmlDeviceGetFieldValues)
	for (int i = 0; i < count; i++) {
		nvmlFieldValue_t *v = &values[i];
		v->timestamp = time(NULL) * 1000000LL;
		v->latencyUsec = 1;
		unsigned int id = field_id(v->fieldId);
		if (id >= MAX_FIELDS) { v->nvmlReturn = NVML_ERROR_INVALID_ARGUMENT; continue; }
		struct field *f = &c->fields[id];
		v->nvmlReturn = (nvmlReturn_t)load(&f->ret);
		v->valueType = (nvmlValueType_t)load(&f->type);
		v->value.sllVal = load(&f->value);
		if (v->fieldId >= NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX && v->fieldId <= NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX)
			v->nvmlReturn = link_throughput(c, v);
		if (id >= NVML_FI_DEV_NVLINK_COUNT_XMIT_PACKETS && id <= NVML_FI_DEV_NVLINK_COUNT_FEC_HISTORY_15 && id != NVML_FI_DEV_GET_GPU_RECOVERY_ACTION && v->nvmlReturn == NVML_SUCCESS)
			nvlink5(c, v);
		switch (v->fieldId) { /* those that move in time */
		case NVML_FI_DEV_POWER_INSTANT: v->value.uiVal = (unsigned int)instant(c); break;
		case NVML_FI_DEV_POWER_AVERAGE: if (load(&c->power_period_ns) > 0) v->value.uiVal = (unsigned int)average(&c->series[SERIES_power], load(&c->power_period_ns)); break;
		case NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION: /* the counter of the function */
			v->nvmlReturn = (nvmlReturn_t)load(&c->functions[FUNC_nvmlDeviceGetTotalEnergyConsumption].ret);
			v->valueType = NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
			v->value.ullVal = (unsigned long long)energy(c);
			break;
		}
	}
	return NVML_SUCCESS;
}

/* --- fans, PCIe, ECC --- */

nvmlReturn_t nvmlDeviceGetNumFans(nvmlDevice_t d, unsigned int *n) { DEVICE(d, nvmlDeviceGetNumFans) return value_uint(c, VALUE_fan_count, n); }
nvmlReturn_t nvmlDeviceGetFanSpeed_v2(nvmlDevice_t d, unsigned int fan, unsigned int *percent) {
	DEVICE(d, nvmlDeviceGetFanSpeed_v2)
	if ((int64_t)fan >= load(&c->values[VALUE_fan_count].value)) return NVML_ERROR_INVALID_ARGUMENT;
	return value_uint(c, VALUE_fan_speed, percent);
}
nvmlReturn_t nvmlDeviceGetFanSpeedRPM(nvmlDevice_t d, nvmlFanSpeedInfo_t *fan) {
	DEVICE(d, nvmlDeviceGetFanSpeedRPM)
	if (fan->version != nvmlFanSpeedInfo_v1) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
	if ((int64_t)fan->fan >= load(&c->values[VALUE_fan_count].value)) return NVML_ERROR_INVALID_ARGUMENT;
	return value_uint(c, VALUE_fan_rpm, &fan->speed);
}
nvmlReturn_t nvmlDeviceGetCurrPcieLinkGeneration(nvmlDevice_t d, unsigned int *v) { DEVICE(d, nvmlDeviceGetCurrPcieLinkGeneration) return value_uint(c, VALUE_pcie_generation, v); }
nvmlReturn_t nvmlDeviceGetMaxPcieLinkGeneration(nvmlDevice_t d, unsigned int *v) { DEVICE(d, nvmlDeviceGetMaxPcieLinkGeneration) return value_uint(c, VALUE_pcie_generation_max, v); }
nvmlReturn_t nvmlDeviceGetCurrPcieLinkWidth(nvmlDevice_t d, unsigned int *v) { DEVICE(d, nvmlDeviceGetCurrPcieLinkWidth) return value_uint(c, VALUE_pcie_width, v); }
nvmlReturn_t nvmlDeviceGetMaxPcieLinkWidth(nvmlDevice_t d, unsigned int *v) { DEVICE(d, nvmlDeviceGetMaxPcieLinkWidth) return value_uint(c, VALUE_pcie_width_max, v); }
nvmlReturn_t nvmlDeviceGetPcieReplayCounter(nvmlDevice_t d, unsigned int *v) { DEVICE(d, nvmlDeviceGetPcieReplayCounter) return value_uint(c, VALUE_pcie_replays, v); }

nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t d, nvmlEnableState_t *current, nvmlEnableState_t *pending) {
	DEVICE(d, nvmlDeviceGetEccMode)
	r = value_uint(c, VALUE_ecc_mode, (unsigned int *)current);
	*pending = *current;
	return r;
}
static nvmlReturn_t counter(struct card *c, enum value_id v, unsigned long long *n) {
	int64_t x;
	nvmlReturn_t r = value(c, v, &x);
	if (r == NVML_SUCCESS) *n = (unsigned long long)x;
	return r;
}
nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t d, nvmlMemoryErrorType_t type, nvmlEccCounterType_t lifetime, unsigned long long *n) {
	DEVICE(d, nvmlDeviceGetTotalEccErrors)
	return counter(c, VALUE_ecc_corrected_volatile + (lifetime == NVML_AGGREGATE_ECC) * 2 + (type == NVML_MEMORY_ERROR_TYPE_UNCORRECTED), n);
}
nvmlReturn_t nvmlDeviceGetMemoryErrorCounter(nvmlDevice_t d, nvmlMemoryErrorType_t type, nvmlEccCounterType_t lifetime, nvmlMemoryLocation_t where, unsigned long long *n) {
	DEVICE(d, nvmlDeviceGetMemoryErrorCounter)
	int location;
	switch (where) {
	case NVML_MEMORY_LOCATION_SRAM: location = 0; break;
	case NVML_MEMORY_LOCATION_DRAM: location = 1; break; /* DEVICE_MEMORY is the same number */
	default: return NVML_ERROR_NOT_SUPPORTED;
	}
	return counter(c, VALUE_ecc_sram_corrected_volatile + (lifetime == NVML_AGGREGATE_ECC) * 4 + location * 2 + (type == NVML_MEMORY_ERROR_TYPE_UNCORRECTED), n);
}

nvmlReturn_t nvmlDeviceGetSramEccErrorStatus(nvmlDevice_t d, nvmlEccSramErrorStatus_t *status) {
	DEVICE(d, nvmlDeviceGetSramEccErrorStatus)
	if (status->version != nvmlEccSramErrorStatus_v1) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
	status->aggregateCor = (unsigned long long)load(&c->values[VALUE_ecc_sram_corrected_aggregate].value);
	return value_uint(c, VALUE_ecc_sram_threshold_exceeded, &status->bThresholdExceeded);
}

/* A GPU without a fabric answers that its state is not supported. */
nvmlReturn_t nvmlDeviceGetGpuFabricInfoV(nvmlDevice_t d, nvmlGpuFabricInfoV_t *info) {
	DEVICE(d, nvmlDeviceGetGpuFabricInfoV)
	nvmlGpuFabricInfo_v2_t *v2 = (nvmlGpuFabricInfo_v2_t *)info;
	if (v2->version != nvmlGpuFabricInfo_v2) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
	v2->state = (nvmlGpuFabricState_t)load(&c->values[VALUE_fabric_state].value);
	v2->status = (nvmlReturn_t)load(&c->values[VALUE_fabric_status].value);
	v2->healthMask = (unsigned int)load(&c->values[VALUE_fabric_health].value);
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetRowRemapperHistogram(nvmlDevice_t d, nvmlRowRemapperHistogramValues_t *banks) {
	DEVICE(d, nvmlDeviceGetRowRemapperHistogram)
	r = value_uint(c, VALUE_remap_banks_max, &banks->max);
	if (r == NVML_SUCCESS) r = value_uint(c, VALUE_remap_banks_high, &banks->high);
	if (r == NVML_SUCCESS) r = value_uint(c, VALUE_remap_banks_partial, &banks->partial);
	if (r == NVML_SUCCESS) r = value_uint(c, VALUE_remap_banks_low, &banks->low);
	return r == NVML_SUCCESS ? value_uint(c, VALUE_remap_banks_none, &banks->none) : r;
}

/* --- GPM: what happened between two samples --- */

struct gpm_sample { int64_t card, mig, taken; };

nvmlReturn_t nvmlGpmQueryDeviceSupport(nvmlDevice_t d, nvmlGpmSupport_t *support) {
	DEVICE(d, nvmlGpmQueryDeviceSupport)
	if (support->version != NVML_GPM_SUPPORT_VERSION) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
	support->isSupportedDevice = load(&c->gpm[NVML_GPM_METRIC_SM_UTIL].ret) == NVML_SUCCESS;
	return NVML_SUCCESS;
}
nvmlReturn_t nvmlGpmSampleAlloc(nvmlGpmSample_t *sample) {
	LIBRARY(nvmlGpmSampleAlloc)
	struct gpm_sample *s = calloc(1, sizeof *s);
	if (!s) return NVML_ERROR_MEMORY;
	s->card = -1;
	sample->handle = (struct nvmlGpmSample_st *)s;
	return NVML_SUCCESS;
}
nvmlReturn_t nvmlGpmSampleFree(nvmlGpmSample_t sample) { free(sample.handle); return NVML_SUCCESS; }
static nvmlReturn_t take_sample(nvmlGpmSample_t sample, int64_t card, int64_t mig) {
	struct gpm_sample *s = (struct gpm_sample *)sample.handle;
	if (load(&S->card[card].gpm[NVML_GPM_METRIC_SM_UTIL].ret) != NVML_SUCCESS) return NVML_ERROR_NOT_SUPPORTED;
	s->card = card; s->mig = mig; s->taken = now_ns();
	return NVML_SUCCESS;
}
nvmlReturn_t nvmlGpmSampleGet(nvmlDevice_t d, nvmlGpmSample_t sample) {
	DEVICE(d, nvmlGpmSampleGet)
	if (mig_on(c)) return NVML_ERROR_NOT_SUPPORTED;
	return take_sample(sample, card_of(d), -1);
}
nvmlReturn_t nvmlGpmMigSampleGet(nvmlDevice_t d, unsigned int gpu_instance, nvmlGpmSample_t sample) {
	DEVICE(d, nvmlGpmMigSampleGet)
	if (!mig_on(c)) return NVML_ERROR_INVALID_ARGUMENT;
	for (int64_t i = 0; i < MAX_MIG; i++)
		if (load(&c->mig[i].present) && load(&c->mig[i].gpu_instance) == (int64_t)gpu_instance)
			return take_sample(sample, card_of(d), i);
	return NVML_ERROR_INVALID_ARGUMENT;
}
nvmlReturn_t nvmlGpmMetricsGet(nvmlGpmMetricsGet_t *get) {
	if (!map_state()) return NVML_ERROR_UNINITIALIZED;
	if (get->version != NVML_GPM_METRICS_GET_VERSION) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
	struct gpm_sample *a = (struct gpm_sample *)get->sample1.handle, *b = (struct gpm_sample *)get->sample2.handle;
	if (!a || !b || a->card < 0 || a->card != b->card || a->mig != b->mig || b->taken <= a->taken) return NVML_ERROR_INVALID_ARGUMENT;
	nvmlReturn_t r = enter(a->card, FUNC_nvmlGpmMetricsGet);
	if (r != NVML_SUCCESS) return r;
	struct card *c = &S->card[a->card];
	int64_t permille = a->mig < 0 ? 1000 : load(&c->mig[a->mig].gpm_permille);
	for (unsigned int i = 0; i < get->numMetrics; i++) {
		nvmlGpmMetric_t *m = &get->metrics[i];
		memset(&m->metricInfo, 0, sizeof m->metricInfo);
		if (m->metricId >= MAX_GPM) { m->nvmlReturn = NVML_ERROR_INVALID_ARGUMENT; continue; }
		m->nvmlReturn = (nvmlReturn_t)load(&c->gpm[m->metricId].ret);
		m->value = (double)load(&c->gpm[m->metricId].value) * (double)permille / 1e6;
	}
	return NVML_SUCCESS;
}

/* --- processes --- */

#define ANY_PID(p) (load(&(p)->pid) != 0)

static nvmlReturn_t list_processes(struct card *c, nvmlDevice_t d, int64_t graphics, unsigned int *count, nvmlProcessInfo_t *out, nvmlProcessInfo_v1_t *out_v1) {
	unsigned int n = 0;
	struct mig *m = is_mig(d) ? mig_of(c, d) : NULL;
	if (is_mig(d) && !m) return NVML_ERROR_NOT_FOUND;
	for (int i = 0; i < MAX_PROCESSES; i++) {
		struct process *p = &c->processes[i];
		if (!ANY_PID(p) || load(&p->graphics) != graphics) continue;
		if (m && (load(&p->gpu_instance) != load(&m->gpu_instance) || load(&p->compute_instance) != load(&m->compute_instance))) continue;
		if (n < *count && out)
			out[n] = (nvmlProcessInfo_t){(unsigned int)load(&p->pid), (unsigned long long)load(&p->memory), (unsigned int)load(&p->gpu_instance), (unsigned int)load(&p->compute_instance)};
		if (n < *count && out_v1)
			out_v1[n] = (nvmlProcessInfo_v1_t){(unsigned int)load(&p->pid), (unsigned long long)load(&p->memory)};
		n++;
	}
	nvmlReturn_t r = n > *count ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
	*count = n;
	return r;
}
nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t d, unsigned int *count, nvmlProcessInfo_t *out) { DEVICE(d, nvmlDeviceGetComputeRunningProcesses_v3) return list_processes(c, d, 0, count, out, NULL); }
nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t d, unsigned int *count, nvmlProcessInfo_v2_t *out) { return nvmlDeviceGetComputeRunningProcesses_v3(d, count, out); }
nvmlReturn_t nvmlDeviceGetComputeRunningProcesses(nvmlDevice_t d, unsigned int *count, nvmlProcessInfo_v1_t *out) { DEVICE(d, nvmlDeviceGetComputeRunningProcesses_v3) return list_processes(c, d, 0, count, NULL, out); }
nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t d, unsigned int *count, nvmlProcessInfo_t *out) { DEVICE(d, nvmlDeviceGetGraphicsRunningProcesses_v3) return list_processes(c, d, 1, count, out, NULL); }
nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v2(nvmlDevice_t d, unsigned int *count, nvmlProcessInfo_v2_t *out) { return nvmlDeviceGetGraphicsRunningProcesses_v3(d, count, out); }
nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses(nvmlDevice_t d, unsigned int *count, nvmlProcessInfo_v1_t *out) { DEVICE(d, nvmlDeviceGetGraphicsRunningProcesses_v3) return list_processes(c, d, 1, count, NULL, out); }

/* used is what a process used of the SMs in the last period, in percent. */
static unsigned int used(struct process *p, int64_t period) {
	int64_t n = load(&p->turns), end = now_ns(), from = end - period;
	if (n == 0 || period <= 0) return (unsigned int)load(&p->sm);
	int64_t first = n > MAX_TURNS ? n - MAX_TURNS + 1 : 0; /* the oldest may be written now */
	double sum = 0;
	for (int64_t i = n - 1, until = end; i >= first && until > from; i--) {
		struct turn *t = &p->turn[i % MAX_TURNS];
		int64_t at = i == first || load(&t->at_ns) < from ? from : load(&t->at_ns);
		if (at < until) { sum += (double)load(&t->sm) * (double)(until - at); until = at; }
	}
	return (unsigned int)(sum / (double)period + 0.5);
}

/* The driver samples a process over up to a second. Only processes that did something have a
 * sample, and only new ones are told. */
#define PROCESS_PERIOD_NS 1000000000LL

nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t d, nvmlProcessUtilizationSample_t *out, unsigned int *count, unsigned long long last_seen) {
	DEVICE(d, nvmlDeviceGetProcessUtilization)
	if (mig_on(c)) return NVML_ERROR_NOT_SUPPORTED;
	unsigned long long at = (unsigned long long)(wall_ns() / 1000);
	unsigned int n = 0;
	for (int i = 0; i < MAX_PROCESSES; i++) {
		struct process *p = &c->processes[i];
		if (!ANY_PID(p) || at <= last_seen) continue;
		int64_t since = at - last_seen < PROCESS_PERIOD_NS / 1000 ? (int64_t)(at - last_seen) * 1000 : PROCESS_PERIOD_NS;
		unsigned int sm = used(p, since);
		if (sm + load(&p->mem) + load(&p->enc) + load(&p->dec) == 0) continue;
		if (out && n < *count)
			out[n] = (nvmlProcessUtilizationSample_t){(unsigned int)load(&p->pid), at, sm, (unsigned int)load(&p->mem), (unsigned int)load(&p->enc), (unsigned int)load(&p->dec)};
		n++;
	}
	if (n == 0) return NVML_ERROR_NOT_FOUND;
	nvmlReturn_t result = !out || n > *count ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
	*count = n;
	return result;
}

/* --- events --- */

struct set { int64_t seen; uint64_t types[MAX_CARDS]; };

nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t d, unsigned long long *types) {
	DEVICE(d, nvmlDeviceGetSupportedEventTypes)
	(void)c;
	*types = nvmlEventTypeXidCriticalError | nvmlEventTypeSingleBitEccError | nvmlEventTypeDoubleBitEccError | nvmlEventTypePState | nvmlEventTypeClock;
	return NVML_SUCCESS;
}
nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set) {
	LIBRARY(nvmlEventSetCreate)
	struct set *s = calloc(1, sizeof *s);
	if (!s) return NVML_ERROR_MEMORY;
	s->seen = load(&S->event_count);
	set->handle = (struct nvmlEventSet_st *)s;
	return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t d, unsigned long long types, nvmlEventSet_t set) {
	DEVICE(d, nvmlDeviceRegisterEvents)
	(void)c;
	((struct set *)set.handle)->types[card_of(d)] |= types;
	return NVML_SUCCESS;
}
nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeout_ms) {
	nvmlReturn_t r = enter(0, FUNC_nvmlEventSetWait_v2);
	if (r != NVML_SUCCESS) return r;
	struct set *s = (struct set *)set.handle;
	for (int64_t end = now_ns() + timeout_ms * 1000000LL;;) {
		nvmlReturn_t alive = driver_state();
		if (alive != NVML_SUCCESS) return alive;
		int64_t n = load(&S->event_count);
		if (n - s->seen > MAX_EVENTS) s->seen = n - MAX_EVENTS;
		while (s->seen < n) {
			struct event *e = &S->events[s->seen++ % MAX_EVENTS];
			if (!(s->types[e->card] & (uint64_t)e->type)) continue;
			memset(data, 0, sizeof *data);
			data->device = handle_of(e->card);
			data->eventType = (unsigned long long)e->type;
			data->eventData = (unsigned long long)e->data;
			/* Drivers answer 0 for a GPU that is not divided. */
			data->gpuInstanceId = data->computeInstanceId = mig_on(&S->card[e->card]) ? 0xFFFFFFFF : 0;
			return NVML_SUCCESS;
		}
		if (now_ns() >= end) return NVML_ERROR_TIMEOUT;
		pause_ns(20000000); /* the driver sleeps; this library has to look */
	}
}
nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set) { free(set.handle); return NVML_SUCCESS; }
