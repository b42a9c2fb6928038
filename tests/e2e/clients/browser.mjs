// Bundled by esbuild into the script of the test's page: stock clients in a browser, with no code of the project.
import Uppy from '@uppy/core'
import Tus from '@uppy/tus'
import * as tus from 'tus-js-client'

// Uploads a File with Uppy and its tus plugin; resolves to what Uppy says in the end.
window.uploadWithUppy = async (file, endpoint, options = {}) => {
  const uppy = new Uppy({ autoProceed: false })
  uppy.use(Tus, { endpoint, ...options })
  uppy.addFile({ name: file.name, type: file.type, data: file, source: 'test' })
  const result = await uppy.upload()
  const outcome = {
    successful: result.successful.map((one) => one.uploadURL),
    failed: result.failed.map((one) => String(one.error)),
  }
  uppy.destroy()
  return outcome
}

// Uploads a File with tus-js-client; resolves to { url } or { error }.
window.uploadWithTusJs = (file, options) =>
  new Promise((resolve) => {
    const upload = new tus.Upload(file, {
      ...options,
      metadata: { filename: file.name, filetype: file.type },
      onSuccess: () => resolve({ url: upload.url }),
      onError: (error) => resolve({ error: String(error) }),
    })
    upload.start()
  })
