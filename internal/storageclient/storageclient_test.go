// SPDX-License-Identifier: Apache-2.0

package storageclient

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type host struct {
	component.Host
	extensions map[component.ID]component.Component
}

func (h host) GetExtensions() map[component.ID]component.Component { return h.extensions }

// extension is a storage that cannot be opened, if there is an error.
type extension struct {
	component.Component
	err   error
	kind  component.Kind
	owner component.ID
}

func (e *extension) GetClient(_ context.Context, kind component.Kind, owner component.ID, _ string) (storage.Client, error) {
	e.kind, e.owner = kind, owner
	return storage.NewNopClient(), e.err
}

func TestTheStorageIsThatOfTheConfiguration(t *testing.T) {
	id, owner := component.MustNewID("file_storage"), component.MustNewID("comfyui")
	open := func(id *component.ID, e component.Component) (storage.Client, error) {
		h := host{componenttest.NewNopHost(), map[component.ID]component.Component{}}
		if e != nil {
			h.extensions[*id] = e
		}
		return Open(t.Context(), h, id, component.KindReceiver, owner)
	}
	client, err := open(nil, nil)
	require.NoError(t, err)
	assert.Nil(t, client)
	_, err = open(&id, nil)
	require.EqualError(t, err, `storage: "file_storage" is not a configured extension; add it to extensions and to service::extensions`)
	_, err = open(&id, struct{ component.Component }{})
	require.EqualError(t, err, `storage: "file_storage" is not a storage extension; use one, for example file_storage`)
	_, err = open(&id, &extension{err: errors.New("the disk is full")})
	require.EqualError(t, err, `storage: open "file_storage": the disk is full`)
	e := &extension{}
	client, err = open(&id, e)
	require.NoError(t, err)
	assert.NotNil(t, client)
	assert.Equal(t, component.KindReceiver, e.kind)
	assert.Equal(t, owner, e.owner)
}
