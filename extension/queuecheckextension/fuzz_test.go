// SPDX-License-Identifier: Apache-2.0

package queuecheckextension

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// FuzzCheckTree checks any file: it ends without a panic, and whatever passes is small
// enough to have been read once.
func FuzzCheckTree(f *testing.F) {
	for _, entries := range []int{0, 3, 200} {
		path := filepath.Join(f.TempDir(), "exporter_x__metrics")
		db, err := bbolt.Open(path, 0o600, &bbolt.Options{PageSize: 1024})
		require.NoError(f, err)
		require.NoError(f, db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucket(storageBucket)
			for i := range entries {
				err = b.Put([]byte{byte(i >> 4), byte(i)}, bytes.Repeat([]byte{1}, 40))
			}
			return err
		}))
		require.NoError(f, db.Close())
		raw, err := os.ReadFile(path)
		require.NoError(f, err)
		f.Add(raw[:min(len(raw), 64<<10)])
	}
	f.Add([]byte{})
	f.Fuzz(func(_ *testing.T, raw []byte) { _ = checkTree(bytes.NewReader(raw), int64(len(raw))) })
}
