// SPDX-License-Identifier: Apache-2.0

package texts

import (
	"math"
	"strconv"
	"time"
)

// Seconds is a duration: less than 1 ms, 3 ms, 0.04 s, 2.4 s, 25 s, 3 min 20 s, 4 min, 2 h 5 min.
func Seconds(d time.Duration) Message {
	s := d.Seconds()
	switch {
	case s >= 3600:
		minutes := int(math.Round(s / 60))
		if minutes%60 == 0 {
			return Message{"figure.hours.whole", Args{"h": minutes / 60}}
		}
		return Message{"figure.hours", Args{"h": minutes / 60, "min": minutes % 60}}
	case s >= 120:
		whole := int(math.Round(s))
		if whole%60 == 0 {
			return Message{"figure.minutes.whole", Args{"min": whole / 60}}
		}
		return Message{"figure.minutes", Args{"min": whole / 60, "s": whole % 60}}
	case s > 0 && s < 0.001:
		return Message{"figure.milliseconds.less", Args{}}
	case s > 0 && s < 0.0095:
		return Message{"figure.milliseconds", Args{"ms": strconv.FormatFloat(1000*s, 'f', 0, 64)}}
	}
	return Message{"figure.seconds", Args{"s": significant(s)}}
}

// Bytes is an amount of memory in binary units, as the page and nvidia-smi have it.
func Bytes(n int64) Message {
	if n < 1<<30 {
		return Message{"figure.mebibytes", Args{"mib": strconv.FormatInt((n+1<<19)>>20, 10)}}
	}
	gib, digits := float64(n)/(1<<30), 1
	if gib >= 99.95 { // three significant digits
		digits = 0
	}
	return Message{"figure.gibibytes", Args{"gib": strconv.FormatFloat(gib, 'f', digits, 64)}}
}

// Times is a ratio: 1.8.
func Times(ratio float64) string { return significant(ratio) }

// significant has a digit behind the point, two below 0.1, and none from 20 on.
func significant(v float64) string {
	switch {
	case v != 0 && math.Abs(v) < 0.095:
		return strconv.FormatFloat(v, 'f', 2, 64)
	case math.Abs(v) < 19.95:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 0, 64)
}
