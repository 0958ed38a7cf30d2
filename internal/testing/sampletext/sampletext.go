// SPDX-License-Identifier: Apache-2.0

// Package sampletext makes metrics and log records from lines of text, so that a test reads
// like what a receiver emits:
//
//	hw.gpu.memory.usage{hw.id=GPU-a,hw.name=gpu0} 4096
//	hw.gpu.process.memory.usage{hw.id=GPU-a,process.pid=17} stale
//	comfyui.execution.duration{comfyui.task_class=people} 12.5/5
//	hw.gpu.xid{hw.id=GPU-a,hw.gpu.xid=#79}
//
// A value of two numbers is a histogram: its sum and its count. Attributes whose name ends in
// .pid, and those marked with #, are integers.
package sampletext

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

// Metrics makes a scrape at a time. resource is a list of attributes, such as
// "host.name=node-1". It panics on a line that is not valid.
func Metrics(at time.Time, resource, text string) pmetric.Metrics {
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	attributes(rm.Resource().Attributes(), resource)
	metrics := rm.ScopeMetrics().AppendEmpty().Metrics()
	byName := map[string]pmetric.Metric{}
	for line := range strings.Lines(text) {
		name, labels, value := split(line)
		if name == "" {
			continue
		}
		sum, count, isHistogram := strings.Cut(value, "/")
		m, known := byName[name]
		if !known {
			m = metrics.AppendEmpty()
			m.SetName(name)
			byName[name] = m
			if isHistogram {
				m.SetEmptyHistogram()
			} else {
				m.SetEmptyGauge()
			}
		}
		if isHistogram {
			p := m.Histogram().DataPoints().AppendEmpty()
			p.SetTimestamp(pcommon.NewTimestampFromTime(at))
			p.SetSum(number(sum))
			p.SetCount(uint64(number(count)))
			attributes(p.Attributes(), labels)
			continue
		}
		p := m.Gauge().DataPoints().AppendEmpty()
		p.SetTimestamp(pcommon.NewTimestampFromTime(at))
		attributes(p.Attributes(), labels)
		if value == "stale" {
			p.SetFlags(pmetric.DefaultDataPointFlags.WithNoRecordedValue(true))
			continue
		}
		p.SetDoubleValue(number(value))
	}
	return md
}

// Logs makes log records at a time, one a line; the name is the event's.
func Logs(at time.Time, resource, text string) plog.Logs {
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	attributes(rl.Resource().Attributes(), resource)
	records := rl.ScopeLogs().AppendEmpty().LogRecords()
	for line := range strings.Lines(text) {
		name, labels, _ := split(line)
		if name == "" {
			continue
		}
		r := records.AppendEmpty()
		r.SetEventName(name)
		r.SetTimestamp(pcommon.NewTimestampFromTime(at))
		attributes(r.Attributes(), labels)
	}
	return ld
}

// split divides a line into its name, its attributes and its value.
func split(line string) (name, labels, value string) {
	line = strings.TrimSpace(line)
	if name, value, _ = strings.Cut(line, " "); !strings.Contains(name, "{") {
		return name, "", strings.TrimSpace(value)
	}
	name, rest, _ := strings.Cut(line, "{")
	end := strings.LastIndex(rest, "}")
	if end < 0 {
		panic(fmt.Sprintf("%q is not a valid sample", line))
	}
	return name, rest[:end], strings.TrimSpace(rest[end+1:])
}

func attributes(to pcommon.Map, text string) {
	for pair := range strings.SplitSeq(text, ",") {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			continue
		}
		if integer, marked := strings.CutPrefix(value, "#"); marked || strings.HasSuffix(key, ".pid") {
			to.PutInt(key, int64(number(integer)))
			continue
		}
		if value == "true" {
			to.PutBool(key, true)
			continue
		}
		to.PutStr(key, value)
	}
}

func number(text string) float64 {
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		panic(fmt.Sprintf("%q is not a valid value", text))
	}
	return v
}
