// SPDX-License-Identifier: Apache-2.0

// One goroutine writes and reads files here, with the race detector ten times as slowly.
//go:build !race

package queuecheckextension

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/storedamage"
)

// shapes are the files that the damages are tried on.
var shapes = []struct {
	name          string
	entries, size int
}{
	{"new", 0, 0},           // the bucket only
	{"inline", 2, 20},       // the bucket lies in its parent's page
	{"one_leaf", 10, 100},   // one page of entries
	{"branches", 2000, 100}, // several levels
	{"large", 30, 50_000},   // entries over many pages
}

func TestDamagedFilesAreSetAside(t *testing.T) {
	for _, shape := range shapes {
		for _, kind := range storedamage.Kinds {
			t.Run(shape.name+"/"+kind.Name, func(t *testing.T) {
				dir := t.TempDir()
				path := filepath.Join(dir, "exporter_otlp_http_queue_metrics")
				usedFile(t, path, shape.entries, shape.size)
				require.NoError(t, kind.Apply(path))
				before, err := os.ReadFile(path)
				require.NoError(t, err)
				logs := startChecker(t, dir)
				require.Len(t, logs.FilterMessageSnippet("damaged").All(), 1, "%v", logs.All())
				assert.NoFileExists(t, path)
				aside, _ := filepath.Glob(path + damagedMark + "*")
				require.Len(t, aside, 1)
				after, err := os.ReadFile(aside[0])
				require.NoError(t, err)
				assert.Equal(t, before, after, "the damaged file is kept as it was")
				assert.Zero(t, startChecker(t, dir).Len(), "what was set aside is not checked again")
			})
		}
	}
}

func TestDamageThatLeavesTheEntriesReadableSetsNothingAside(t *testing.T) {
	for _, shape := range shapes[2:] {
		for _, kind := range storedamage.Harmless {
			t.Run(shape.name+"/"+kind.Name, func(t *testing.T) {
				dir := t.TempDir()
				path := filepath.Join(dir, "receiver_comfyui_")
				usedFile(t, path, shape.entries, shape.size)
				require.NoError(t, kind.Apply(path))
				assert.Zero(t, startChecker(t, dir).Len())
				assert.FileExists(t, path)
				assert.GreaterOrEqual(t, items(t, path), shape.entries+1, "the entries and the queue's own one; the newest meta's last write may be lost")
			})
		}
	}
}

func TestWholeFilesOfAllShapesStay(t *testing.T) {
	for _, shape := range shapes {
		for name, options := range map[string]*bbolt.Options{
			"as_file_storage": {NoFreelistSync: true, FreelistType: bbolt.FreelistMapType},
			"with_freelist":   {},
			"pages_of_16KiB":  {PageSize: 16384},
		} {
			t.Run(shape.name+"/"+name, func(t *testing.T) {
				dir := t.TempDir()
				path := filepath.Join(dir, "exporter_otlp_grpc__traces")
				writeFile(t, path, options, shape.entries, shape.size)
				logs := startChecker(t, dir)
				assert.Zero(t, logs.Len(), "%v", logs.All())
				assert.FileExists(t, path)
			})
		}
	}
}

// TestPagesThatBboltWouldNotSurviveAreFound damages what bbolt trusts: pages that name each
// other, keys out of order, the list of free pages.
func TestPagesThatBboltWouldNotSurviveAreFound(t *testing.T) {
	firstBranch := func(f *storedamage.File) int {
		used, _ := f.Used()
		for p := 2; ; p++ {
			if at := p * f.PageSize; used[p] && binary.NativeEndian.Uint16(f.Raw[at+8:]) == branchPage {
				return at
			}
		}
	}
	for name, damage := range map[string]func(f *storedamage.File){
		"cycle": func(f *storedamage.File) {
			at := firstBranch(f)
			binary.NativeEndian.PutUint64(f.Raw[at+pageHeaderSize+8:], uint64(at/f.PageSize))
		},
		"one child twice": func(f *storedamage.File) {
			at := firstBranch(f) + pageHeaderSize
			copy(f.Raw[at+elementSize+8:at+elementSize+16], f.Raw[at+8:at+16])
		},
		"child outside the file": func(f *storedamage.File) {
			binary.NativeEndian.PutUint64(f.Raw[firstBranch(f)+pageHeaderSize+8:], 1<<40)
		},
		"keys out of order": func(f *storedamage.File) {
			_, leaves := f.Used()
			at := leaves[1]*f.PageSize + pageHeaderSize
			key := at + int(binary.NativeEndian.Uint32(f.Raw[at+4:]))
			f.Raw[key] = 'z'
		},
		"key behind its page": func(f *storedamage.File) {
			_, leaves := f.Used()
			binary.NativeEndian.PutUint32(f.Raw[leaves[1]*f.PageSize+pageHeaderSize+8:], 1<<31)
		},
		"page flows over the end": func(f *storedamage.File) {
			_, leaves := f.Used()
			binary.NativeEndian.PutUint32(f.Raw[leaves[1]*f.PageSize+12:], 1<<30)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "exporter_otlp_http_queue_metrics")
			usedFile(t, path, 500, 100)
			damageFile(t, path, damage)
			require.Len(t, startChecker(t, dir).All(), 1)
		})
	}
	freelist := func(f *storedamage.File) int {
		newest, _ := f.NewestMeta()
		return int(binary.NativeEndian.Uint64(f.Raw[newest*f.PageSize+pageHeaderSize+32:])) * f.PageSize
	}
	for name, damage := range map[string]func(f *storedamage.File){
		"of another type": func(f *storedamage.File) { f.Raw[freelist(f)+8] = leafPage },
		"count too large": func(f *storedamage.File) { binary.NativeEndian.PutUint16(f.Raw[freelist(f)+10:], 0xFFFE) },
		"a page in use": func(f *storedamage.File) {
			_, leaves := f.Used()
			binary.NativeEndian.PutUint64(f.Raw[freelist(f)+pageHeaderSize:], uint64(leaves[1]))
		},
	} {
		t.Run("list of free pages "+name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "exporter_otlp_http_queue_metrics")
			writeFile(t, path, &bbolt.Options{}, 500, 100)
			damageFile(t, path, damage)
			require.Len(t, startChecker(t, dir).All(), 1)
		})
	}
}

func damageFile(t *testing.T, path string, damage func(*storedamage.File)) {
	t.Helper()
	f, err := storedamage.Read(path)
	require.NoError(t, err)
	damage(f)
	require.NoError(t, os.WriteFile(path, f.Raw, 0o600))
}

// TestWhatPassesTheCheckOpens flips single bits of headers and elements of pages in use.
// What the check lets pass, bbolt must open for writing, read and compact as file_storage
// does; a panic of one of its goroutines would end this test.
func TestWhatPassesTheCheckOpens(t *testing.T) {
	dir := t.TempDir()
	whole := filepath.Join(dir, "whole")
	usedFile(t, whole, 300, 100)
	f, err := storedamage.Read(whole)
	require.NoError(t, err)
	used, _ := f.Used()
	var pages []int
	for p := range len(f.Raw) / f.PageSize {
		if used[p] {
			pages = append(pages, p)
		}
	}
	random := rand.New(rand.NewPCG(14, 3))
	passed, found := 0, 0
	for range 1500 {
		at := pages[random.IntN(len(pages))]*f.PageSize + random.IntN(96)
		bit := byte(1) << random.IntN(8)
		f.Raw[at] ^= bit
		path := filepath.Join(dir, "exporter_flipped_metrics")
		require.NoError(t, os.WriteFile(path, f.Raw, 0o600))
		f.Raw[at] ^= bit
		if checkFile(t, path) != nil {
			found++
			continue
		}
		passed++
		db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoSync: true, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType})
		require.NoError(t, err, "byte %d", at)
		require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("default"))
			if err != nil {
				return err
			}
			return b.Put([]byte("new"), make([]byte, 5000))
		}), "byte %d", at)
		small, err := bbolt.Open(filepath.Join(dir, "tempdb"), 0o600, &bbolt.Options{NoSync: true, NoFreelistSync: true})
		require.NoError(t, err)
		require.NoError(t, bbolt.Compact(small, db, 0), "byte %d", at)
		require.NoError(t, small.Close())
		require.NoError(t, os.Remove(filepath.Join(dir, "tempdb")))
		require.NoError(t, db.Close())
	}
	assert.Greater(t, found, 500, "flips are found")
	assert.Greater(t, passed, 50, "flips pass: values and single metas")
}

func checkFile(t *testing.T, path string) error {
	t.Helper()
	file, err := os.Open(path)
	require.NoError(t, err)
	defer file.Close()
	info, err := file.Stat()
	require.NoError(t, err)
	return checkTree(file, info.Size())
}
