// SPDX-License-Identifier: Apache-2.0

package queuecheckextension

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

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
// that owns them, KIND_TYPE_NAME or KIND_TYPE_NAME_SIGNAL, where the name may be empty.
// With a wrong directory no other file may be renamed.
func isQueue(name string) bool {
	kind, rest, _ := strings.Cut(name, "_")
	if !strings.Contains(rest, "_") || strings.Contains(name, damagedMark) || strings.HasSuffix(name, ".backup") {
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

// check reads one file and renames it if it is damaged. While it does, no other process
// can open the file.
func (c *checker) check(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("directory: queue file %s cannot be read; grant the collector's user read access: %w", path, err)
	}
	defer file.Close()
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err != nil {
		return nil // another process holds it: file_storage reports that
	}
	info, err := file.Stat()
	if err != nil {
		return err
	}
	reason := errEmpty
	if info.Size() > 0 {
		reason = checkTree(file, info.Size())
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

// errEmpty is what is wrong with an empty file: file_storage writes four pages as it
// creates one.
var errEmpty = errors.New("the file is empty")

// prepare creates the directory and tries to write in it, so that a folder that cannot
// hold a queue is an error that names the key: file_storage, which is created later, would
// name neither key nor remedy.
func prepare(directory string) error {
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return fmt.Errorf("directory: %q cannot be created; create it for the collector's user, or set a directory that this user can create (%s): %w", directory, inReadyConfigurations, err)
	}
	probe, err := os.CreateTemp(directory, "probe-")
	if errors.Is(err, syscall.ENOSPC) {
		return nil // a full disk ends no collector: what does not fit is refused
	}
	if err != nil {
		return fmt.Errorf("directory: %q cannot be written; grant the collector's user write access, or set another directory (%s): %w", directory, inReadyConfigurations, err)
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}

const inReadyConfigurations = "in the ready configurations, OTELCOL_GPU_QUEUE or OTELCOL_GPU_COMFYUI_STORE"
