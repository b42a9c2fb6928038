// Runs one upload with tus-js-client as it comes from its package. The first argument is JSON:
//
//   file          path of the file
//   source        'file' (default), 'stream' (a Node stream: cannot be read twice, has no known size) or 'buffer'
//   options       given to tus.Upload as they are (endpoint, uploadUrl, chunkSize, ...)
//   urlStorage    path of a file that remembers upload URLs
//   resume        true: go on with the upload that urlStorage remembers
//   pauseAtBytes  abort() at each of these sizes, and start() again after pauseMs
//   stopAtBytes   abort() there and end the program, as somebody who closes the window
//   abortAtBytes  abort(true) there
//
// What happens is told as JSON lines. Ends with 0 unless the client gave up.
import fs from 'node:fs'
import { PassThrough } from 'node:stream'
import tus from 'tus-js-client'

const task = JSON.parse(process.argv[2])
const tell = (event, fields = {}) => fs.writeSync(1, `${JSON.stringify({ event, ...fields })}\n`)

const sources = {
  file: () => fs.createReadStream(task.file),
  stream: () => fs.createReadStream(task.file).pipe(new PassThrough()),
  buffer: () => fs.readFileSync(task.file),
}
const pauses = [...(task.pauseAtBytes ?? [])]
let ended = false

const upload = new tus.Upload(sources[task.source ?? 'file'](), {
  ...task.options,
  ...(task.urlStorage ? { urlStorage: new tus.FileUrlStorage(task.urlStorage) } : {}),
  onUploadUrlAvailable: () => tell('url', { url: upload.url }),
  onProgress: (bytes) => {
    tell('progress', { bytes })
    // Somebody who presses a button does so between the client's own steps, never within one.
    setImmediate(decide, bytes)
  },
  onSuccess: () => tell('success', { url: upload.url }),
  onError: fail,
})

function decide(bytes) {
  if (ended) return
  if (pauses.length > 0 && bytes >= pauses[0]) {
    pauses.shift()
    pause()
  } else if (task.stopAtBytes !== undefined && bytes >= task.stopAtBytes) {
    ended = true
    upload.abort().then(() => {
      tell('stopped', { url: upload.url })
      process.exit(0)
    }, fail)
  } else if (task.abortAtBytes !== undefined && bytes >= task.abortAtBytes) {
    ended = true
    upload.abort(true).then(() => tell('terminated', { url: upload.url }), fail)
  }
}

function pause() {
  upload.abort().then(() => {
    tell('paused')
    setTimeout(() => {
      tell('resumed')
      upload.start()
    }, task.pauseMs ?? 100)
  }, fail)
}

function fail(error) {
  tell('error', { message: String(error), status: error.originalResponse?.getStatus?.() ?? null })
  process.exitCode = 1
}

if (task.resume) {
  const found = await upload.findPreviousUploads()
  tell('found', { count: found.length })
  upload.resumeFromPreviousUpload(found[0])
}
upload.start()
