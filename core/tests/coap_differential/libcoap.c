/* Reads messages, each behind its length in two bytes, and writes what libcoap makes of each on a line of its own:
 * "-" when it refuses it, otherwise type, code, message id, token, options and payload. */
#include <coap3/coap.h>
#include <stdio.h>

static void hex(const uint8_t *bytes, size_t length) {
  for (size_t i = 0; i < length; i++)
    printf("%02x", bytes[i]);
}

static void show(coap_pdu_t *pdu) {
  coap_bin_const_t token = coap_pdu_get_token(pdu);
  coap_opt_iterator_t options;
  coap_opt_t *option;
  const uint8_t *payload = NULL;
  size_t length = 0;
  printf("%d %d %d ", (int)coap_pdu_get_type(pdu), (int)coap_pdu_get_code(pdu), (int)coap_pdu_get_mid(pdu) & 0xffff);
  hex(token.s, token.length);
  coap_option_iterator_init(pdu, &options, COAP_OPT_ALL);
  while ((option = coap_option_next(&options))) {
    printf(" %d:", (int)options.number);
    hex(coap_opt_value(option), coap_opt_length(option));
  }
  coap_get_data(pdu, &length, &payload);
  printf(" |");
  hex(payload, length);
  printf("\n");
}

int main(void) {
  static uint8_t data[65536];
  uint8_t prefix[2];
  coap_startup();
  coap_set_log_level(LOG_EMERG);
  while (fread(prefix, 1, 2, stdin) == 2) {
    size_t length = (size_t)prefix[0] << 8 | prefix[1];
    if (fread(data, 1, length, stdin) != length)
      return 1;
    coap_pdu_t *pdu = coap_pdu_init(COAP_MESSAGE_CON, COAP_EMPTY_CODE, 0, sizeof data);
    if (pdu && coap_pdu_parse(COAP_PROTO_UDP, data, length, pdu))
      show(pdu);
    else
      printf("-\n");
    coap_delete_pdu(pdu);
  }
  coap_cleanup();
  return 0;
}
