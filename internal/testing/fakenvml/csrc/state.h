/* The state that the test library and the tests share, in a mapped file.
 * Every number is 64 bits wide, so that layout.go can compute the same offsets
 * from fields.def without knowing this compiler's padding. */
#ifndef FAKENVML_STATE_H
#define FAKENVML_STATE_H
#include <stdint.h>

#define STATE_MAGIC 0x6c6d766e656b6166LL /* "fakenvml" */
#define MAX_CARDS 64
#define MAX_MIG 8
#define TEXT_SIZE 96
#define MAX_STEPS 256
#define MAX_FIELDS 320
#define MAX_EVENTS 256
#define MAX_GPM 128
#define MAX_LINKS 18
#define MAX_PROCESSES 32
#define MAX_TURNS 16

struct cell { int64_t value, ret; };
struct field { int64_t value, ret, type; };
/* once_ns delays the next call only. */
struct function { int64_t ret, delay_ns, hang, calls, once_ns; };
/* total is the integral up to at_ns, of power in mJ: kept with its step, so that
 * a reader never sees the one without the other. */
struct step { int64_t at_ns, value, total; };
struct series { int64_t count; struct step steps[MAX_STEPS]; };
struct event { int64_t card, type, data; };

enum value_id {
#define TEXT(x)
#define VALUE(x) VALUE_##x,
#define SERIES(x)
#define FUNC(x)
#include "fields.def"
	VALUE_COUNT
};
enum text_id {
#undef VALUE
#undef TEXT
#define TEXT(x) TEXT_##x,
#define VALUE(x)
#include "fields.def"
	TEXT_COUNT
};
enum series_id {
#undef SERIES
#undef TEXT
#define TEXT(x)
#define SERIES(x) SERIES_##x,
#include "fields.def"
	SERIES_COUNT
};
enum function_id {
#undef FUNC
#undef SERIES
#define SERIES(x)
#define FUNC(x) FUNC_##x,
#include "fields.def"
	FUNC_COUNT
};
#undef FUNC
#undef SERIES
#undef VALUE
#undef TEXT

struct mig {
	int64_t present, gpu_instance, compute_instance;
	int64_t memory_total, memory_used, memory_reserved;
	int64_t gpm_permille;        /* of the GPU's GPM values */
	char uuid[TEXT_SIZE], name[TEXT_SIZE];
};

/* One NVLink; errors by nvmlNvLinkErrorCounter_t. */
struct link { int64_t present, active, tx_kib, rx_kib, errors[5]; };

/* One process on the GPU; instances are -1 without MIG, memory -1 is "not
 * available". Shares in percent; a process without any has no sample. */
struct turn { int64_t at_ns, sm; };
struct process {
	int64_t pid, graphics, memory, gpu_instance, compute_instance, sm, mem, enc, dec;
	int64_t turns;                 /* how often sm changed */
	struct turn turn[MAX_TURNS];   /* the last ones, by turns modulo MAX_TURNS */
};

struct card {
	int64_t present;             /* 0: the index is not enumerated any more */
	int64_t lost;                /* 1: every call answers GPU_IS_LOST */
	int64_t sampling_period_ns;  /* of the utilisations */
	int64_t power_period_ns;     /* of the average power */
	int64_t energy_mj;           /* before the first power step */
	int64_t mig_count;
	char texts[TEXT_COUNT][TEXT_SIZE];
	struct cell values[VALUE_COUNT];
	struct field fields[MAX_FIELDS];
	struct series series[SERIES_COUNT];
	struct function functions[FUNC_COUNT];
	struct mig mig[MAX_MIG];
	struct cell gpm[MAX_GPM];    /* by nvmlGpmMetricId_t, in thousandths */
	struct link links[MAX_LINKS];
	struct process processes[MAX_PROCESSES];
};

struct state {
	int64_t magic, size;
	int64_t driver;      /* 0 absent, 1 loaded, 2 another version than the library */
	int64_t generation;  /* counts driver loads: handles of an older one are stale */
	int64_t cards;
	int64_t cuda_version;
	int64_t inits;       /* how often nvmlInit has succeeded, over all processes */
	int64_t event_count;
	int64_t clock_offset_ns; /* of the wall clock that the driver stamps with */
	/* The driver's one lock: calls wait for it and hold it for as long as real ones do. */
	int64_t locked;      /* 1: calls take time, behind the lock */
	int64_t list_ns;     /* of a list of processes */
	int64_t stall_every; /* each so many calls one takes stall_ns more, the lock held; 0: none */
	int64_t stall_ns;
	int64_t held_ns;     /* for how long the lock was held */
	int64_t spun_ns;     /* for how long this library span instead of a driver that works */
	int64_t locked_calls;
	char driver_version[TEXT_SIZE], nvml_version[TEXT_SIZE];
	struct event events[MAX_EVENTS];
	struct card card[MAX_CARDS];
};
#endif
