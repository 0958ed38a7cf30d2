// SPDX-License-Identifier: Apache-2.0

package fakecomfyui

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/jpeg"
	"image/png"

	"github.com/coder/websocket"
)

func (x *execution) images(n int, prefix string) map[string]any {
	list := make([]any, n)
	for i := range list {
		list[i] = map[string]any{"filename": prefix + "_00001_.png", "subfolder": "", "type": "output"}
	}
	return map[string]any{"images": list}
}

// show sends the output of a node to the client, and keeps it for the history.
func (x *execution) show(g graph, id string, count int) {
	out := map[string]any{"text": []string{"hello", "world"}}
	if n := g[id]; n.Class != "TextOut" {
		prefix, _ := n.Inputs["filename_prefix"].(string)
		out = x.images(count, prefix)
	}
	x.entry.outputs[id], x.entry.meta[id] = out, meta(id)
	x.emit("executed", map[string]any{"node": id, "display_node": id, "output": out})
}

// progressText sends a text about a node to the prompt's client.
func (x *execution) progressText(id, text string) {
	f := frame{kind: websocket.MessageBinary, data: binary.BigEndian.AppendUint32(nil, 3)} // TEXT
	f.data = binary.BigEndian.AppendUint32(f.data, uint32(len(id)))
	f.data = append(append(f.data, id...), text...)
	x.mu.Lock()
	defer x.mu.Unlock()
	if k := x.sockets[x.item.client()]; k != nil {
		k.send(f)
	}
}

// preview sends an image of a step to the clients that understand one with its
// node, or to those that do not.
func (x *execution) preview(id string, withNode bool) {
	f := frame{kind: websocket.MessageBinary}
	if withNode {
		about, _ := json.Marshal(map[string]any{"node_id": id, "prompt_id": x.item.id, "display_node_id": id, "parent_node_id": nil, "real_node_id": id, "image_type": "image/jpeg"})
		f.data = binary.BigEndian.AppendUint32(nil, 4) // PREVIEW_IMAGE_WITH_METADATA
		f.data = binary.BigEndian.AppendUint32(f.data, uint32(len(about)))
		f.data = append(f.data, about...)
	} else {
		f.data = binary.BigEndian.AppendUint32(nil, 1)    // PREVIEW_IMAGE
		f.data = binary.BigEndian.AppendUint32(f.data, 1) // JPEG
	}
	f.data = append(f.data, thumbnail...)
	x.mu.Lock()
	defer x.mu.Unlock()
	own := x.item.client()
	for client, k := range x.sockets {
		if (own == "" || own == client) && k.flags == withNode {
			k.send(f)
		}
	}
}

// fullImage and thumbnail are what /view and previews show.
var fullImage, thumbnail = func() (full, small []byte) {
	m := image.NewRGBA(image.Rect(0, 0, 64, 64))
	for i := range m.Pix {
		m.Pix[i] = byte(i * 7)
	}
	var p, j bytes.Buffer
	if err := errors.Join(png.Encode(&p, m), jpeg.Encode(&j, m, nil)); err != nil {
		panic(fmt.Sprint("simulation: ", err))
	}
	return p.Bytes(), j.Bytes()
}()
