// SPDX-License-Identifier: Apache-2.0

package protocol

// Upload is the server's answer to POST /upload/image: under what name it stored the image.
type Upload struct {
	Name, Subfolder string
	// Folder is the answer's type: input, output or temp.
	Folder string
}

// ParseUpload reads the answer to POST /upload/image. It is empty if the body is not JSON.
func ParseUpload(body []byte) (u Upload) {
	d := newDocument(lenient(body))
	err := d.object(func(name string) error {
		switch name {
		case "name":
			return d.text(&u.Name)
		case "subfolder":
			return d.text(&u.Subfolder)
		case "type":
			return d.text(&u.Folder)
		}
		return d.SkipValue()
	})
	if err != nil {
		return Upload{}
	}
	return u
}
