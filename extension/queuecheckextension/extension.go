// SPDX-License-Identifier: Apache-2.0

package queuecheckextension

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
	"go.opentelemetry.io/collector/component"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/extension/queuecheckextension/internal/metadata"
)

// damagedMark is part of the names of damaged files.
const damagedMark = ".damaged-"

type checker struct {
	directory string
	settings  component.TelemetrySettings
	telemetry *metadata.TelemetryBuilder
}

// Start checks all files. It fails only if a damaged one cannot be renamed.
func (c *checker) Start(context.Context, component.Host) error {
	var err error
	if c.telemetry, err = metadata.NewTelemetryBuilder(c.settings); err != nil {
		return err
	}
	c.telemetry.ExtensionQueueCheckDamaged.Add(context.Background(), 0) // initialised to 0, so that an increase is visible
	entries, err := os.ReadDir(c.directory)
	if errors.Is(err, os.ErrNotExist) {
		return nil // file_storage creates it
	}
	if err != nil {
		return fmt.Errorf("directory: %q cannot be read; grant the collector's user read access: %w", c.directory, err)
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || !isQueue(e.Name()) {
			continue
		}
		if err := c.check(filepath.Join(c.directory, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// isQueue reports whether file_storage wrote a file: it names files after the component
// that owns them. With a wrong directory no other file may be renamed.
func isQueue(name string) bool {
	kind, _, ok := strings.Cut(name, "_")
	if !ok || strings.Contains(name, damagedMark) || strings.HasSuffix(name, ".backup") {
		return false
	}
	switch kind {
	case "receiver", "processor", "exporter", "connector", "extension":
		return true
	}
	return false
}

// Shutdown ends the extension's telemetry.
func (c *checker) Shutdown(context.Context) error {
	if c.telemetry != nil {
		c.telemetry.Shutdown()
	}
	return nil
}

func (c *checker) check(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Size() == 0 {
		return nil // a queue that was never written
	}
	reason := read(path)
	if errors.Is(reason, bbolterrors.ErrTimeout) {
		return nil // another process holds it: file_storage reports that
	}
	if reason == nil {
		return nil
	}
	aside := fmt.Sprintf("%s%s%d", path, damagedMark, time.Now().UnixNano())
	if err := os.Rename(path, aside); err != nil {
		return fmt.Errorf("queue file %s is damaged (%w) and cannot be renamed: %w", path, reason, err)
	}
	c.telemetry.ExtensionQueueCheckDamaged.Add(context.Background(), 1)
	c.settings.Logger.Warn("Queue file is damaged; renamed it and started an empty queue. What it held and had not been delivered is lost",
		zap.String("file", path), zap.String("kept_as", aside), zap.Int64("bytes", info.Size()), zap.Error(reason))
	return nil
}

// read opens a file and reads every page of it. A missing page is a memory fault, which
// SetPanicOnFault turns into a panic of this goroutine.
func read(path string) (reason error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	var db *bbolt.DB
	defer func() {
		if p := recover(); p != nil {
			reason = fmt.Errorf("%v", p)
		}
		if db != nil {
			// Close unmaps without touching the pages.
			reason = errors.Join(reason, db.Close())
		}
	}()
	// Read-only, or the open itself would walk the pages, in goroutines whose
	// panics nobody can recover.
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second, ReadOnly: true})
	if err != nil {
		return err
	}
	tx, err := db.Begin(false)
	if err != nil {
		return err
	}
	defer func() { reason = errors.Join(reason, tx.Rollback()) }()
	var sum byte
	walk := func(_ []byte, b *bbolt.Bucket) error {
		return b.ForEach(func(_, v []byte) error {
			for i := 0; i < len(v); i += 1024 {
				sum += v[i]
			}
			return nil
		})
	}
	err = tx.ForEach(walk)
	runtime.KeepAlive(sum) // so that the reads are not optimised away
	return err
}
