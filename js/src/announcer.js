// Tells the page what happened, without letting the page's mistakes hurt the upload.

export class Announcer {
  #environment;
  #tell;
  #scheduled = false;

  /**
   * @param {import('./environment.js').Environment} environment
   * @param {() => void} tell calls the page's `onprogress`
   */
  constructor(environment, tell) {
    this.#environment = environment;
    this.#tell = tell;
  }

  /** Something changed: tell the page once before its next picture, however often this is called until then. */
  soon() {
    if (this.#scheduled) {
      return;
    }
    this.#scheduled = true;
    this.#environment.frame(() => {
      if (this.#scheduled) {
        this.now();
      }
    });
  }

  /** Tell the page at once. */
  now() {
    this.#scheduled = false;
    this.guarded(this.#tell);
  }

  /**
   * Call into the page. An exception there is reported like any uncaught one, and ends nothing here.
   *
   * @param {() => void} call
   */
  guarded(call) {
    try {
      call();
    } catch (error) {
      this.#environment.report(error);
    }
  }
}
