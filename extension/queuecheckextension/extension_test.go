// SPDX-License-Identifier: Apache-2.0

package queuecheckextension

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/extension/extensiontest"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/otelcol-gpu/otelcol-gpu/extension/queuecheckextension/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/storedamage"
)

func queueFile(t *testing.T, path string, items int) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte("default"))
		if err != nil {
			return err
		}
		for i := range items {
			if err := b.Put(fmt.Appendf(nil, "%08d", i), make([]byte, 5000)); err != nil {
				return err
			}
		}
		return nil
	}))
	require.NoError(t, db.Close())
}

func items(t *testing.T, path string) (n int) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("default")).ForEach(func(_, _ []byte) error {
			n++
			return nil
		})
	}))
	require.NoError(t, db.Close())
	return n
}

func startChecker(t *testing.T, directory string) *observer.ObservedLogs {
	t.Helper()
	core, logs := observer.New(zap.WarnLevel)
	set := extensiontest.NewNopSettings(metadata.Type)
	set.Logger = zap.New(core)
	e, err := NewFactory().Create(context.Background(), set, &Config{Directory: directory})
	require.NoError(t, err)
	require.NoError(t, e.Start(context.Background(), componenttest.NewNopHost()))
	require.NoError(t, e.Shutdown(context.Background()))
	return logs
}

// usedFile writes a file as file_storage does (the freelist is not stored) and uses it
// as a queue does: entries come at one end and go at the other.
func usedFile(t *testing.T, path string, entries, size int) {
	t.Helper()
	writeFile(t, path, &bbolt.Options{NoFreelistSync: true, FreelistType: bbolt.FreelistMapType}, entries, size)
}

func writeFile(t *testing.T, path string, options *bbolt.Options, entries, size int) {
	t.Helper()
	options.NoSync = true // the tests end no machine
	db, err := bbolt.Open(path, 0o600, options)
	require.NoError(t, err)
	update := func(f func(*bbolt.Bucket) error) {
		require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("default"))
			if err != nil {
				return err
			}
			return f(b)
		}))
	}
	update(func(*bbolt.Bucket) error { return nil })
	for i := range 2 * entries {
		update(func(b *bbolt.Bucket) error {
			if err := b.Put([]byte("qmv0"), fmt.Appendf(nil, "%d", i)); err != nil {
				return err
			}
			return b.Put(fmt.Appendf(nil, "%d", i), make([]byte, size))
		})
		if i >= entries {
			update(func(b *bbolt.Bucket) error { return b.Delete(fmt.Appendf(nil, "%d", i-entries)) })
		}
	}
	require.NoError(t, db.Close())
}

func TestWholeFilesStay(t *testing.T) {
	dir := t.TempDir()
	queueFile(t, filepath.Join(dir, "exporter_otlp_http__metrics"), 0)
	queueFile(t, filepath.Join(dir, "exporter_otlp_http_queue_metrics"), 500)
	logs := startChecker(t, dir)
	assert.Zero(t, logs.Len())
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	assert.Len(t, files, 2)
}

func TestFilesCutAnywhereAreSetAside(t *testing.T) {
	for _, part := range []float64{0, 0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9} {
		t.Run(fmt.Sprint(part), func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "exporter_otlp_http_queue_metrics")
			queueFile(t, path, 500)
			whole, err := os.ReadFile(path)
			require.NoError(t, err)
			require.NoError(t, os.Truncate(path, int64(float64(len(whole))*part)))
			logs := startChecker(t, dir)
			if part == 0.9 && logs.Len() == 0 { // the end is free space: everything is there
				assert.Equal(t, 500, items(t, path))
				return
			}
			require.Len(t, logs.FilterMessageSnippet("damaged").All(), 1)
			assert.NoFileExists(t, path)
			kept, _ := filepath.Glob(path + damagedMark + "*")
			assert.Len(t, kept, 1)
			assert.Zero(t, startChecker(t, dir).Len(), "what was set aside is not looked at again")
		})
	}
}

func TestFileThatIsNoQueueIsSetAside(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "exporter_otlp_http_queue_metrics"), []byte("this is no queue, and it is long enough to have a first page of text in it"), 0o600))
	assert.Len(t, startChecker(t, dir).All(), 1)
}

func TestFilesOfOthersAreNotTouched(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"notes.txt", "exporter", "extension_test.go", "env", "tempdb123", "exporter_x_metrics.backup", "exporter_x" + damagedMark + "1"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("not a queue"), 0o600))
	}
	assert.Zero(t, startChecker(t, dir).Len())
}

func TestDirectoryThatIsNotThereYetIsCreated(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "some", "queue")
	assert.Zero(t, startChecker(t, dir).Len())
	assert.DirExists(t, dir)
}

func TestEmptyDirectoryIsNamed(t *testing.T) {
	require.ErrorContains(t, (&Config{}).Validate(), "directory")
}

func TestFileThatAnotherProcessHoldsIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "exporter_otlp_http_queue_metrics")
	usedFile(t, path, 10, 100)
	db, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	require.NoError(t, storedamage.Kinds[3].Apply(path))
	assert.Zero(t, startChecker(t, dir).Len())
	assert.FileExists(t, path)
}

func TestFolderThatCannotHoldAQueueIsAnErrorWithTheRemedy(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for _, directory := range []string{file, filepath.Join(file, "queue")} {
		err := (&Config{Directory: directory}).Validate()
		require.ErrorContains(t, err, "directory")
		require.ErrorContains(t, err, directory)
		require.ErrorContains(t, err, "OTELCOL_GPU_QUEUE")
	}
	// Found as the extension is created: nobody, root included, can create it.
	_, err := NewFactory().Create(t.Context(), extensiontest.NewNopSettings(metadata.Type), &Config{Directory: "/proc/queue"})
	require.ErrorContains(t, err, `directory: "/proc/queue" cannot be created`)
	require.ErrorContains(t, err, "OTELCOL_GPU_QUEUE")
}
